"""Code that a visitor copies to use an adapter."""

import shlex
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from lora.config import LoraConfig
from lora.serving import ENGINES
from registry.intake import WEIGHTS
from registry.models import Adapter, Revision

# transformers' Auto class by PEFT's task type; anything else loads the bare model.
AUTO_CLASS = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    None: "AutoModelForCausalLM",
}
WITH_HEAD = ("SEQ_CLS", "TOKEN_CLS")
UNKNOWN_BASE = "PATH_OF_THE_BASE_MODEL"


@dataclass(frozen=True)
class Tab:
    """One way to use an adapter: blocks of (title, code), what to know before, and what stands in the way.

    `export` is the engine for which the adapter can be downloaded rewritten, or "".
    """

    id: str
    title: str
    blocks: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()
    export: str = ""


# Verdict → its words, and the look of its badge.
VERDICTS = {
    "yes": ("yes", "ready"),
    "yes-after-export": ("after export", "checking"),
    "wrong-silently": ("wrong, silently", "rejected"),
    "no": ("no", "rejected"),
}


def engines(serving: dict[str, Any] | None) -> list[dict[str, str]]:
    """`{title, words, badge}` of every engine's verdict."""
    verdicts = {engine: VERDICTS[found["verdict"]] for engine, found in (serving or {}).items()}
    return [{"title": ENGINES[name], "words": words, "badge": badge} for name, (words, badge) in verdicts.items()]


def tabs(adapter: Adapter, revision: Revision, config: LoraConfig | None, serving: dict[str, Any] | None) -> list[Tab]:
    """PEFT, the serving engines, transformers alone, and bare files.

    Args:
        config, serving: of the adapter (see `serving_json`); None where its files cannot be read.
    """
    fetch = ("Fetch the folder", fetch_snippet(adapter, revision))
    task = config.task_type if config else None
    notes = [
        *(["Needs the token in $LORADEX_TOKEN: the adapter is private."] if adapter.visibility == "private" else []),
        *([] if revision.base_model else [f"Put the base model in place of {UNKNOWN_BASE}."]),
    ]
    heads = [f"A {task} model: give from_pretrained the num_labels of the training."] if task in WITH_HEAD else []
    found = [Tab("peft", "PEFT", (fetch, ("Load it", peft_snippet(adapter, revision, task))), (*notes, *heads))]
    for engine, verdict in (serving or {}).items():
        if engine in SERVE:
            found.append(_engine_tab(engine, verdict, adapter, revision, notes))
    merged = ("Fold it into the base", merged_snippet(adapter, revision, task))
    found.append(Tab("transformers", "transformers", (fetch, merged), (*notes, *heads)))
    check = ("Check the weights", checksum_snippet(adapter, revision))
    found.append(Tab("curl", "curl", (fetch, check, ("One file", file_snippet(adapter, revision))), tuple(notes[:1])))
    return found


def _engine_tab(engine: str, verdict: dict[str, Any], adapter: Adapter, revision: Revision, notes: list[str]) -> Tab:
    title = ENGINES[engine]
    if verdict["verdict"] in ("no", "wrong-silently"):
        return Tab(engine, title, obstacles=tuple(verdict["reasons"]))
    exported = engine if verdict["verdict"] == "yes-after-export" else None
    fetch = ("Fetch the export" if exported else "Fetch the folder", fetch_snippet(adapter, revision, exported))
    blocks = (fetch, ("Serve it", SERVE[engine](adapter, revision, verdict)), ("Ask it", ASK[engine](adapter)))
    why = [f"As it is: {reason} The export mends that." for reason in verdict["reasons"]]
    return Tab(engine, title, blocks, (*notes, *why, *verdict["cautions"]), export=engine)


def fetch_snippet(adapter: Adapter, revision: Revision, engine: str | None = None) -> str:
    """Shell: fetch the PEFT folder of this revision, or its export for an engine, and unpack it."""
    url = f"{_api(adapter)}archive/?revision={revision.commit}{f'&for={engine}' if engine else ''}"
    zipped = shlex.quote(f"{adapter.name}.zip")
    return (
        f"curl -fsSL {_token(adapter)}-o {zipped} \\\n  {shlex.quote(url)}\n"
        f"unzip -d {shlex.quote(adapter.name)} {zipped}"
    )


def file_snippet(adapter: Adapter, revision: Revision) -> str:
    """Shell: fetch the config alone."""
    url = f"{_api(adapter)}files/adapter_config.json?revision={revision.commit}"
    return f"curl -fsSL {_token(adapter)}-O -J \\\n  {shlex.quote(url)}"


def checksum_snippet(adapter: Adapter, revision: Revision) -> str:
    """Shell: compare the weights with the digest that the registry keeps."""
    weights = revision.file(WEIGHTS)
    digest = weights.blob_id if weights else ""
    line = shlex.quote(f"{digest}  {adapter.name}/{WEIGHTS}")
    return f"echo {line} | sha256sum --check"


def peft_snippet(adapter: Adapter, revision: Revision, task: str | None) -> str:
    """Python: load the unpacked folder on its base model."""
    auto = AUTO_CLASS.get(task, "AutoModel")
    base = revision.base_model or UNKNOWN_BASE
    return (
        "from peft import PeftModel\n"
        f"from transformers import {auto}, AutoTokenizer\n\n"
        f"base = {auto}.from_pretrained({base!r})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({base!r})\n"
        f"model = PeftModel.from_pretrained(base, {adapter.name!r})"
    )


def merged_snippet(adapter: Adapter, revision: Revision, task: str | None) -> str:
    """Python: a folder of the base with the adapter folded in, which needs no PEFT any more."""
    folder = f"{adapter.name}-merged"
    return (
        f"{peft_snippet(adapter, revision, task)}\n\n"
        "merged = model.merge_and_unload()\n"
        f"merged.save_pretrained({folder!r})\n"
        f"tokenizer.save_pretrained({folder!r})"
    )


def vllm_snippet(adapter: Adapter, revision: Revision, verdict: dict[str, Any]) -> str:
    """Shell: serve the base with the adapter beside it."""
    return (
        f"vllm serve {_base(revision)} \\\n"
        f"  --enable-lora --max-lora-rank {verdict['max_lora_rank']} \\\n"
        f"  --lora-modules {_module(adapter)}"
    )


def sglang_snippet(adapter: Adapter, revision: Revision, verdict: dict[str, Any]) -> str:
    """Shell: serve the base with the adapter beside it."""
    return (
        f"python -m sglang.launch_server --model-path {_base(revision)} \\\n"
        f"  --enable-lora --lora-paths {_module(adapter)} --port 8000"
    )


def lorax_snippet(adapter: Adapter, revision: Revision, verdict: dict[str, Any]) -> str:
    """Shell: serve the base; each request names its adapter."""
    return (
        'docker run --gpus all -p 8000:80 -v "$PWD:/adapters" \\\n'
        f"  ghcr.io/predibase/lorax:main --model-id {_base(revision)}"
    )


def completions_question(adapter: Adapter) -> str:
    """Shell: ask the running server; the adapter's name is the model's."""
    return _question("v1/completions", f'{{"model": "{adapter.name}", "prompt": "…", "max_tokens": 64}}')


def lorax_question(adapter: Adapter) -> str:
    """Shell: ask the running server for the adapter in the folder that it sees."""
    parameters = f'{{"adapter_id": "/adapters/{adapter.name}", "adapter_source": "local", "max_new_tokens": 64}}'
    return _question("generate", f'{{"inputs": "…", "parameters": {parameters}}}')


SERVE = {"vllm": vllm_snippet, "sglang": sglang_snippet, "lorax": lorax_snippet}
ASK = {"vllm": completions_question, "sglang": completions_question, "lorax": lorax_question}


def _question(path: str, body: str) -> str:
    return f"curl -sS http://localhost:8000/{path} \\\n  -H \"Content-Type: application/json\" \\\n  -d '{body}'"


def _base(revision: Revision) -> str:
    return shlex.quote(revision.base_model or UNKNOWN_BASE)


def _module(adapter: Adapter) -> str:
    return shlex.quote(f"{adapter.name}=./{adapter.name}")


def _api(adapter: Adapter) -> str:
    return f"{settings.EXTERNAL_URL}/api/v1/adapters/{adapter.full_name}/"


def _token(adapter: Adapter) -> str:
    return '-H "Authorization: Bearer $LORADEX_TOKEN" ' if adapter.visibility == "private" else ""
