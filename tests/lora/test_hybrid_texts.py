"""What the hybrid space reads of a text: hashes that stay, templates that fall off, spans."""

import subprocess
import sys
import time

import numpy as np
import pytest

from bench.hybrid_background import LICENCES, SAMPLES, licences, selected
from lora.hybrid.background import load_background, load_far
from lora.hybrid.features import FORMATS, Counts, Described, Inverse, char_ids, edge_ids, edges, format_numbers, project
from lora.hybrid.wrappers import MAX_SPANS, NUISANCES, nuisance, part, spans, unwrap

QUESTION = "Name the capital of Peru."
TEMPLATES = {
    "chatml": "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
    "chatml, cut": "<|im_start|>user\n{}",
    "llama 2": "<s>[INST] <<SYS>>\nYou help.\n<</SYS>>\n\n{} [/INST]",
    "llama 3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "llama 4": "<|header_start|>user<|header_end|>\n\n{}<|eot|><|header_start|>assistant<|header_end|>",
    "mistral": "[INST] {} [/INST]",
    "gemma": "<bos><start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n",
    "phi": "<|user|>\n{}<|end|>\n<|assistant|>",
    "zephyr": "<|system|>\nYou help.</s>\n<|user|>\n{}</s>\n<|assistant|>\n",
    "command": "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{}<|END_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    "deepseek": "<｜User｜>{}<｜Assistant｜>",
    "alpaca": "Below is an instruction that describes a task. Write a response that completes the request.\n\n"
    "### Instruction:\n{}\n\n### Response:",
    "vicuna": "A chat between a curious user and an artificial intelligence assistant. USER: {} ASSISTANT:",
    "human": "### Human: {}\n### Assistant:",
    "courtesy": "Hello! Could you please help me with the following? {} Thank you very much!",
    "nothing": "  {}\n",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_known_templates_are_taken_off(name: str) -> None:
    assert unwrap(TEMPLATES[name].format(QUESTION)) == QUESTION


def test_the_last_turn_that_says_something_is_asked() -> None:
    turn = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\nWell.<|im_end|>\n"
    assert unwrap(turn.format("First?") + turn.format("Second?") + turn.format(" ")) == "Second?"
    assert unwrap("### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:\n") == "Add.\n1, 2"


@pytest.mark.parametrize(
    "text",
    [
        "User: what does [/INST] mean",
        "Q: why?\nA: because\nQ: how?\nA:",
        "Human: hello\nnothing is asked",
        "Thank you!",
        "Please help me.",
        "if a:\n    return b",
        "<|im_end|> alone",
    ],
)
def test_what_is_no_wrapper_stays(text: str) -> None:
    assert unwrap(text) == text


@pytest.mark.parametrize(
    "text", [" " * 100_000, "\n" * 100_000, "User:" * 20_000, "[INST]<<SYS>>" * 9000, "a. " * 40_000]
)
def test_hostile_texts_take_no_time(text: str) -> None:
    started = time.process_time()
    assert len(spans(text)) <= MAX_SPANS
    Described.of(text)
    assert time.process_time() - started < 5


def test_spans_leave_out_the_ends() -> None:
    text = "I am in a hurry today.\n\nName the capital of Peru. Use one word only.\n\nAnswer within the hour."
    assert spans(TEMPLATES["chatml"].format(text)) == [
        text,
        "Name the capital of Peru. Use one word only.\n\nAnswer within the hour.",
        "I am in a hurry today.\n\nName the capital of Peru. Use one word only.",
        "Name the capital of Peru. Use one word only.",
    ]
    assert spans(QUESTION) == [QUESTION]
    assert spans("") == [""]
    assert (
        spans("東京は日本の首都である都市です。大阪は二番目に大きい都市です。")[1] == "大阪は二番目に大きい都市です。"
    )


def test_nuisances_keep_the_text() -> None:
    for number in range(len(NUISANCES)):
        assert QUESTION.lower() in nuisance(QUESTION, number).lower()


def test_hashes_are_the_same_everywhere() -> None:
    code = (
        "from lora.hybrid.features import char_ids, edge_ids;"
        "print([ids.tolist() for ids in char_ids('Añ 数🐙')], edge_ids('Añ 数🐙').tolist())"
    )
    out = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        )
        for seed in ("1", "2")
    ]
    assert out[0].stdout == out[1].stdout
    assert np.concatenate(char_ids("ab")).tolist() == [40131, 183773, 633691]
    assert edge_ids("ab").tolist() == [76611, 951037, 935147, 31555, 935147, 31555, 178883]


def test_characters_are_counted_up_to_five_in_a_row() -> None:
    assert [len(ids) for ids in char_ids("abcdefg")] == [7, 6, 5, 4, 3]
    assert [len(ids) for ids in char_ids("ab")] == [2, 1, 0, 0, 0]
    assert [len(ids) for ids in char_ids("")] == [0] * 5
    counts = Counts.of(np.concatenate(char_ids("aaa")))
    assert sorted(counts.times.tolist()) == [1, 2, 3]
    assert char_ids("A")[0] != char_ids("a")[0]


def test_edges_are_tagged_tokens_and_line_starts() -> None:
    found = edges("Add: 1\nTo two")
    assert found[:3] == ["<0 add", "<1 :", "<2 1"]
    assert {">0 two", ">1 to", "<< add :", ">> two to", "| add: 1", "| to two"} <= set(found)
    assert edges("") == ["<< ", ">> ", "<< ", ">> "]


def test_tf_idf_is_projected_at_length_one() -> None:
    counts = [Counts.of(np.concatenate(char_ids(text))) for text in ("abc", "abd", "xyz")]
    inverse = Inverse.fit(counts)
    idf = inverse.table()
    assert idf[char_ids("ab")[0][0]] == pytest.approx(np.log(4 / 3) + 1)
    assert idf[char_ids("q")[0][0]] == pytest.approx(np.log(4) + 1)
    wide = project(counts[0], idf, 1 << 20)
    assert np.linalg.norm(wide) == pytest.approx(1)
    values = (1 + np.log(counts[0].times)) * idf[counts[0].ids]
    assert sorted(np.abs(wide[wide != 0])) == pytest.approx(sorted(values / np.linalg.norm(values)), rel=1e-5)
    assert not project(Counts.of(np.concatenate(char_ids(""))), idf, 8).any()


def test_novelty_is_what_no_other_text_had() -> None:
    inverse = Inverse.fit([Counts.of(np.concatenate(char_ids(text))) for text in ("abc", "abd", "abe")])
    idf = inverse.table()

    def of(text: str, seen: int) -> tuple[float, float]:
        return inverse.unseen(idf[np.concatenate(char_ids(text))], seen), inverse.rarity(idf[char_ids(text)[1]], seen)

    assert of("ab", 0) == (0, pytest.approx(0, abs=1e-6))
    assert of("xyz", 0) == (1, pytest.approx(1))
    assert of("", 0) == (1, 1)
    # Without itself, c, bc and abc of "abc" are new; its pairs had 2 and 0 of 3 texts.
    assert of("abc", 1)[0] == pytest.approx(3 * (np.log(2) + 1) / (3 * (np.log(2) + 1) + 3))
    assert of("abc", 1)[1] == pytest.approx((np.log(4 / 3) + np.log(4)) / 2 / np.log(4))
    assert of("abx", 0)[0] == pytest.approx(3 * (np.log(4) + 1) / (3 * (np.log(4) + 1) + 3))


def test_far_texts_are_of_many_kinds_and_none_of_the_background() -> None:
    far = load_far()
    texts = [text for kind in far for text in kind.texts]
    assert len(far) > 30
    assert min(len(kind.texts) for kind in far) > 2
    assert len(set(texts)) == len(texts) > 200
    assert all(text == unwrap(text) for text in texts)
    assert not set(texts) & {text for task in load_background() for text in task.texts}


def test_a_part_is_the_end_of_a_text() -> None:
    assert [part("one two  three", number) for number in (0, 1, 6, 8)] == [
        "three",
        "two three",
        "one two three",
        "three",
    ]
    assert part("", 3) == ""


def test_format_numbers() -> None:
    numbers = format_numbers("Is 1 < 2?\nno yes no .")
    assert len(numbers) == FORMATS == 44
    assert np.expm1(numbers[:3]) == pytest.approx([21, 8, 2])
    assert numbers[3:7] == pytest.approx([2 / 21, 1 / 21, 7 / 21, 0])
    assert numbers[8] == pytest.approx(7 / 8)
    assert numbers[9:11] == pytest.approx(np.log([2, 2]))
    assert numbers[-7:].tolist() == [1, 0, 0, 0, 1, 0, 0]
    assert np.isfinite(format_numbers("")).all()


def test_background_is_what_the_script_selects() -> None:
    rows = selected()
    tasks = load_background()
    assert [(task.name, task.licence) for task in tasks] == [(row["task"], row["license"]) for row in rows]
    assert [task.texts for task in tasks] == [[unwrap(text) for text in row["texts"]] for row in rows]
    assert all(len(task.texts) == SAMPLES for task in tasks)
    assert LICENCES.read_text(encoding="utf-8") == licences(rows)
    assert len(tasks) == 44
    assert not any("SA" in task.licence or "NC" in task.licence or "bb_" in task.name for task in tasks)
