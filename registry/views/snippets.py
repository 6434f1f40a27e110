"""Code that a visitor copies to use an adapter."""

import shlex
from dataclasses import dataclass

from django.conf import settings

from lora.config import LoraConfig
from lora.serving import VllmVerdict, vllm_verdict
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
    """One way to use an adapter: blocks of (title, code), what to know before, and what stands in the way."""

    id: str
    title: str
    blocks: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    obstacles: tuple[str, ...] = ()


def tabs(adapter: Adapter, revision: Revision, config: LoraConfig | None) -> list[Tab]:
    """PEFT, vLLM, transformers alone, and bare files. `config`: None where it cannot be read."""
    fetch = ("Fetch the folder", fetch_snippet(adapter, revision))
    task = config.task_type if config else None
    notes = [
        *(["Needs the token in $LORADEX_TOKEN: the adapter is private."] if adapter.visibility == "private" else []),
        *([] if revision.base_model else [f"Put the base model in place of {UNKNOWN_BASE}."]),
    ]
    heads = [f"A {task} model: give from_pretrained the num_labels of the training."] if task in WITH_HEAD else []
    found = [Tab("peft", "PEFT", (fetch, ("Load it", peft_snippet(adapter, revision, task))), (*notes, *heads))]
    if config is not None:
        found.append(_vllm_tab(adapter, revision, config, fetch, notes))
    merged = ("Fold it into the base", merged_snippet(adapter, revision, task))
    found.append(Tab("transformers", "transformers", (fetch, merged), (*notes, *heads)))
    check = ("Check the weights", checksum_snippet(adapter, revision))
    found.append(Tab("curl", "curl", (fetch, check, ("One file", file_snippet(adapter, revision))), tuple(notes[:1])))
    return found


def _vllm_tab(
    adapter: Adapter, revision: Revision, config: LoraConfig, fetch: tuple[str, str], notes: list[str]
) -> Tab:
    ranks = [module["rank"] for module in revision.modules]
    verdict = vllm_verdict(config, ranks, [warning["code"] for warning in revision.warnings])
    if verdict.obstacles:
        return Tab("vllm", "vLLM", obstacles=verdict.obstacles)
    blocks = (
        fetch,
        ("Serve it", vllm_snippet(adapter, revision, verdict)),
        ("Ask it", vllm_question(adapter)),
    )
    return Tab("vllm", "vLLM", blocks, (*notes, *verdict.cautions))


def fetch_snippet(adapter: Adapter, revision: Revision) -> str:
    """Shell: fetch the PEFT folder of this revision and unpack it."""
    url = f"{_api(adapter)}archive/?revision={revision.commit}"
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


def vllm_snippet(adapter: Adapter, revision: Revision, verdict: VllmVerdict) -> str:
    """Shell: serve the base with the adapter beside it."""
    base = revision.base_model or UNKNOWN_BASE
    module = shlex.quote(f"{adapter.name}=./{adapter.name}")
    return (
        f"vllm serve {shlex.quote(base)} \\\n"
        f"  --enable-lora --max-lora-rank {verdict.max_lora_rank} \\\n"
        f"  --lora-modules {module}"
    )


def vllm_question(adapter: Adapter) -> str:
    """Shell: ask the running server; the adapter's name is the model's."""
    return (
        "curl -sS http://localhost:8000/v1/completions \\\n"
        '  -H "Content-Type: application/json" \\\n'
        f"""  -d '{{"model": "{adapter.name}", "prompt": "…", "max_tokens": 64}}'"""
    )


def _api(adapter: Adapter) -> str:
    return f"{settings.EXTERNAL_URL}/api/v1/adapters/{adapter.full_name}/"


def _token(adapter: Adapter) -> str:
    return '-H "Authorization: Bearer $LORADEX_TOKEN" ' if adapter.visibility == "private" else ""
