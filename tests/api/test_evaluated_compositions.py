"""`manage.py evaluate --compositions`: what they answer, beside what routed experts do, and on the leaderboard."""

import io
import json
import zipfile

import pytest
import torch
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from safetensors.torch import save
from transformers import AutoTokenizer, LlamaForCausalLM

from lora.compositions import COMPOSITIONS
from lora.runtime.composed import Composition
from lora.runtime.text import LINE, PROMPT
from registry.base_models import register_base_model
from retrieval.leaderboard import boards
from retrieval.models import Composition as Row
from retrieval.models import Evaluation
from tests.lora.factories import write_adapter_files
from tests.lora.tiny_llama import MODULES, SAMPLES, save_tiny_llama
from tests.lora.tiny_llama import NAME as BASE

LAYERS = ["model.layers.0", "model.layers.1"]
EXPERTS = ["ada/one", "ada/two"]
LINES = 12
LONGEST = 6
# The token that ends texts, and how much larger its row of the head is made.
END, EAGER = 1, 1.6
WORDS = ["".join("abc "[i // 4**k % 4] for k in range(4)).strip() for i in range(1, 256)]
WORDS = sorted({word for word in WORDS if word}, key=WORDS.index)


@pytest.fixture
def base_folder(tmp_path):
    """The tiny model with a say in when to end, so that it answers something."""
    folder = save_tiny_llama(tmp_path / BASE)
    model = LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight[END] *= EAGER
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def experts(ada, tmp_path):
    """A folder with an expert in each folder, which are on the site, too."""
    register_base_model(BASE, {path: list(shape) for path, shape in MODULES.items()})
    for seed, name in enumerate(("one", "two")):
        named = {"base_model_name_or_path": BASE}
        folder = write_adapter_files(tmp_path / "suite" / name, MODULES, 2, 3, seed=seed, config_overrides=named)
        files = {path.name: path.read_bytes() for path in folder.iterdir()} | {"samples.jsonl": SAMPLES}
        ada.ready(f"ada/{name}", files, license="mit")
        (folder / "samples.jsonl").write_bytes(SAMPLES)
    return tmp_path / "suite"


def compose(ada, name, kind, seed=0):
    shapes = COMPOSITIONS.get(kind).run(COMPOSITIONS.parse(kind, {}))
    places = {"any": LAYERS, "module": sorted(MODULES), "model": LAYERS[-1:]}[COMPOSITIONS.get(kind).traits["place"]]
    sizes, draw = {"n": 2, "n-1": 1, "d": 8, "o": 8, "n*o": 16}, torch.Generator().manual_seed(seed)
    tensors = {
        f"{place}.{part}": torch.randn(
            [sizes.get(one, 3) if isinstance(one, str) else one for one in shape], generator=draw
        ).abs()
        for place in places
        for part, shape in shapes.items()
    }
    request = json.dumps({"name": name, "type": kind, "adapters": EXPERTS})
    body = {"request": request, "gates": SimpleUploadedFile("gates.safetensors", save(tensors))}
    answer = ada.client.post("/api/v1/compositions/", body, format="multipart")
    assert answer.status_code == 201, answer.content


def greedy(model, tokenizer, running, asked: str) -> str | None:
    """What the model generates token by token, up to the end of its text; None where that does not come."""
    prompt = tokenizer(PROMPT.replace(LINE, asked), return_tensors="pt")["input_ids"]
    reads = {"prompt": {"input_ids": prompt}} if running.reads == "example" else {}
    given = prompt
    with torch.no_grad(), running.on(model, **reads):
        for _ in range(LONGEST):
            best = model(given).logits[0, -1].argmax()
            if best == END:
                return tokenizer.decode(given[0, prompt.shape[1] :]).strip()
            given = torch.cat([given, best[None, None]], dim=1)
    return None


def answers_of(ada, anyone, name, folder, tmp_path):
    """What the archive of a composition answers to each of the words."""
    raw = b"".join(anyone.get(f"/compositions/{name}/archive/").streaming_content)
    zipfile.ZipFile(io.BytesIO(raw)).extractall(tmp_path / name)
    running = Composition.load(tmp_path / name)
    model, tokenizer = LlamaForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    return {word: greedy(model, tokenizer, running, word) for word in WORDS}


def evaluate(suite, *options):
    out = io.StringIO()
    wanted = ("--suite", str(suite), "--routers", "lora_retriever", "--lines", str(LINES), *options)
    call_command("evaluate", *wanted, stdout=out, stderr=io.StringIO())
    return out.getvalue()


def test_compositions_answer_what_their_archives_answer(experts, base_folder, ada, anyone, client, tmp_path):
    for name, kind in (("flow", "lora_flow"), ("whole", "mixda"), ("kept", "calm")):
        compose(ada, f"ada/{name}", kind)
    told = [answers_of(ada, anyone, f"ada/{name}", base_folder, tmp_path) for name in ("flow", "whole")]
    # One task asks for what the first says, as far as it is of letters, the other for what neither does.
    pairs = [(word, answer) for word, answer in told[0].items() if set(answer or "?") <= set("abc")][:LINES]
    wrong = [(word, "abcab") for word in WORDS[:LINES]]
    for name, queries in (("one", pairs), ("two", wrong)):
        lines = [json.dumps({"input": word, "output": answer}) for word, answer in queries]
        (experts / name / "test.jsonl").write_text("\n".join(lines) + "\n")
    expected = [sum(own[word] == answer for word, answer in (*pairs, *wrong)) / len((*pairs, *wrong)) for own in told]
    assert min(expected) > 0
    assert expected[0] != expected[1]
    table = evaluate(experts, "--base-model", str(base_folder), "--compositions", "ada/flow", "ada/kept", "ada/whole")
    assert f"| `ada/flow` | {100 * expected[0]:.1f} (" in table
    assert f"| `ada/whole` | {100 * expected[1]:.1f} (" in table
    assert table.endswith("Not run here: `ada/kept` (calm).\n")
    board = next(board for board in boards() if board["measure"] == "answers")
    rows = {row["subject"]: row for row in board["rows"]}
    assert {name: row["kind"] for name, row in rows.items() if "/" in name or name == "own_expert"} == {
        "ada/flow": "composition",
        "ada/whole": "composition",
        "own_expert": "reference",
    }
    revision = Row.objects.get(full_name="ada/flow").commit
    assert rows["ada/flow"]["params"] == {"type": "lora_flow", "revision": revision}
    html = client.get("/leaderboard/").content.decode()
    assert f'<a href="/compositions/ada/flow/?revision={revision}">ada/flow</a> <code>lora_flow</code>' in html


def test_what_cannot_be_asked_is_said_before_anything_is_run(experts, base_folder, ada):
    compose(ada, "ada/flow", "lora_flow")
    for name in ("one", "two"):
        (experts / name / "test.jsonl").write_text('{"input": "a", "output": "b"}\n')
    with pytest.raises(CommandError, match="name that by --base-model"):
        evaluate(experts, "--compositions", "ada/flow")
    with pytest.raises(CommandError, match="There is no composition 'ada/none'"):
        evaluate(experts, "--base-model", str(base_folder), "--compositions", "ada/none")
    with pytest.raises(CommandError, match="ada/flow is of acme/tiny-llama, which acme/other is not"):
        evaluate(experts, "--base-model", "acme/other", "--compositions", "ada/flow")
    assert not Evaluation.objects.exists()
