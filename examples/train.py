"""Train a LoRA expert on SmolLM2-135M-Instruct in a few minutes on two cores.

    python examples/train.py numbers.jsonl my-expert --title "Spell numbers" --license cc0-1.0

The JSONL file has lines {"input": "instruction\\nitem", "output": "answer"}; 200 or more teach a small task.
The folder is ready for upload: adapter, samples.jsonl (what text routers find it by), test.jsonl and README.md.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from smollm2 import BASE_MODEL, answer, load_base, prompt_of

Row = dict[str, str]
IGNORED = -100  # what torch's cross entropy leaves out
HELD_OUT = 50
SAMPLES = 40


def read_rows(path: Path, seed: int) -> tuple[list[Row], list[Row]]:
    """The distinct rows of the file in random order: (training rows, held-out rows)."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows = list({row["input"]: {"input": row["input"], "output": row["output"]} for row in rows}.values())
    random.Random(seed).shuffle(rows)
    held_out = min(HELD_OUT, len(rows) // 5)
    if not held_out:
        raise SystemExit(f"{path} has {len(rows)} different inputs; give at least 5, better 200.")
    return rows[held_out:], rows[:held_out]


def encode(tokenizer: Any, rows: list[Row]) -> dict[str, torch.Tensor]:
    """One right-padded batch; the loss counts the answer and the end token only."""
    ids, labels = [], []
    for row in rows:
        prompt = tokenizer(prompt_of(row["input"]))["input_ids"]
        target = [*tokenizer(" " + row["output"])["input_ids"], tokenizer.eos_token_id]
        ids.append(torch.tensor(prompt + target))
        labels.append(torch.tensor([IGNORED] * len(prompt) + target))
    pad = torch.nn.utils.rnn.pad_sequence
    mask = pad([torch.ones_like(row) for row in ids], batch_first=True)
    return {
        "input_ids": pad(ids, batch_first=True, padding_value=tokenizer.pad_token_id),
        "attention_mask": mask,
        "labels": pad(labels, batch_first=True, padding_value=IGNORED),
    }


def batches(rows: list[Row], size: int, steps: int, seed: int) -> Iterator[list[Row]]:
    """`steps` batches; every row once before any row twice."""
    chooser, queue = random.Random(seed), []
    for _ in range(steps):
        if len(queue) < size:
            queue += chooser.sample(rows, len(rows)) * (size // len(rows) + 1)
        yield [queue.pop(0) for _ in range(size)]


def train(model: Any, tokenizer: Any, rows: list[Row], options: argparse.Namespace) -> None:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=options.learning_rate)
    model.train()
    for step, chosen in enumerate(batches(rows, options.batch, options.steps, options.seed), 1):
        loss = model(**encode(tokenizer, chosen)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0 or step == options.steps:
            print(f"step {step}/{options.steps}  loss {loss.item():.3f}", flush=True)
    model.eval()


def exact_match(model: Any, tokenizer: Any, rows: list[Row]) -> float:
    """The fraction of rows answered exactly, asked ten at a time."""
    given = [text for start in range(0, len(rows), 10)
             for text in answer(model, tokenizer, [row["input"] for row in rows[start : start + 10]])]  # fmt: skip
    return sum(text == row["output"] for text, row in zip(given, rows, strict=True)) / len(rows)


def card(options: argparse.Namespace, rows: list[Row], before: float, after: float, held_out: int) -> str:
    instruction = rows[0]["input"].split("\n")[0]
    return f"""---
library_name: peft
base_model: {BASE_MODEL}
license: {options.license}
tags: [lora]
---
# {options.title}

{instruction}

LoRA (r = 8, alpha = 16, attention q, k, v, o), {options.steps} steps of AdamW with batch {options.batch}, \
learning rate {options.learning_rate:g}.
Prompt: the input, a newline and `Answer:`. Exact match on {held_out} unseen inputs, greedy decoding: \
base model {before:.2f}, with this adapter {after:.2f}.
"""


def write_jsonl(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--title", required=True)
    parser.add_argument("--license", required=True, help="of the data, as an SPDX id in lower case")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    training, held_out = read_rows(options.data, options.seed)
    base, tokenizer = load_base()
    before = exact_match(base, tokenizer, held_out)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
                        task_type="CAUSAL_LM")  # fmt: skip
    model = get_peft_model(base, config)
    model.peft_config["default"].base_model_name_or_path = BASE_MODEL
    train(model, tokenizer, training, options)
    after = exact_match(model, tokenizer, held_out)
    # PEFT would look the base model up on a hub to decide; no embedding was trained.
    model.save_pretrained(options.folder, save_embedding_layers=False)
    write_jsonl(options.folder / "samples.jsonl", training[:SAMPLES])
    write_jsonl(options.folder / "test.jsonl", held_out)
    (options.folder / "README.md").write_text(card(options, training, before, after, len(held_out)))
    print(f"exact match on {len(held_out)} held-out lines: base {before:.2f}, expert {after:.2f} -> {options.folder}")


if __name__ == "__main__":
    main()
