"""Every way in which a file can fail to be safetensors, and none of them may crash or hang."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from lora.errors import InvalidAdapter
from lora.formats import recognise
from lora.header import MAX_HEADER_BYTES, Header, TensorInfo, read_header

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def pack(header: object, data: bytes = b"") -> bytes:
    """Return a safetensors file with this header, given as JSON value or as raw bytes."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def read(content: bytes) -> Header:
    return read_header(io.BytesIO(content), len(content))


def codes(content: bytes) -> list[str]:
    with pytest.raises(InvalidAdapter) as refusal:
        read(content)
    for problem in refusal.value.problems:
        assert problem.message.endswith((".", "?"))
        assert problem.message.isprintable()
        assert len(problem.message) < 400
    return [problem.code for problem in refusal.value.problems]


def short(value: object) -> str:
    """Return a test id that does not hold a whole file."""
    return value if isinstance(value, str) and value.isidentifier() and len(value) < 30 else "_"


def entry(**changes: object) -> dict[str, object]:
    return F32 | changes


def test_a_real_file_is_read_in_file_order() -> None:
    content = save({"b": torch.zeros(2, 3), "a": torch.zeros(4, dtype=torch.bfloat16)}, metadata={"format": "pt"})
    header = read(content)
    assert header.metadata == {"format": "pt"}
    assert header.tensors == {"b": TensorInfo("F32", (2, 3), 0, 24), "a": TensorInfo("BF16", (4,), 24, 32)}
    assert header.data_offset == len(content) - 32


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (b"\x08\0\0\0\0\0\0", "truncated"),
        ((2**64 - 1).to_bytes(8, "little") + b"{}", "bad_header"),
        ((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{" + b" " * 600, "bad_header"),
        ((5000).to_bytes(8, "little") + b'{"a":', "truncated"),
        (pack(b'{"a": nonsense}'), "not_json"),
        (pack(b"[1, 2, 3]"), "bad_header"),
        (pack(b"  " + json.dumps({"a": F32}).encode(), bytes(8)), "bad_header"),
        (pack(json.dumps({"a": F32}).encode() + b"\n\n", bytes(8)), "bad_header"),
        (pack(b'{"\xff": 1}'), "not_utf8"),
        (pack(b"\xef\xbb\xbf{}"), "bad_header"),
        (pack({}), "no_tensors"),
        (pack({"__metadata__": {"format": "pt"}}), "no_tensors"),
        (pack({"__metadata__": {"epoch": 3}, "a": F32}, bytes(8)), "bad_metadata"),
        (pack({"__metadata__": [], "a": F32}, bytes(8)), "bad_metadata"),
        (pack({"__metadata__": {"x": "y" * 5_000_000}, "a": F32}, bytes(8)), "bad_metadata"),
        (pack(b'{"a": %s, "a": %s}' % ((json.dumps(F32).encode(),) * 2), bytes(8)), "duplicate_key"),
        (pack(b'{"__metadata__": {"license": "mit", "license": "none"}}'), "duplicate_key"),
        (pack({"a": F32, "b": entry(data_offsets=[4, 12])}, bytes(12)), "bad_offsets"),
        (pack({"a": F32, "b": entry(data_offsets=[12, 20])}, bytes(20)), "bad_offsets"),
        (pack({"a": entry(data_offsets=[4, 12])}, bytes(12)), "bad_offsets"),
        (pack({"a": F32}, bytes(8) + b"PK\x03\x04"), "trailing_bytes"),
        (pack({"a": F32}, bytes(7)), "truncated"),
        (pack({"a": entry(shape=[3])}, bytes(8)), "wrong_size"),
        (pack({"a": entry(shape=[2**62, 2**62, 4])}, bytes(8)), "wrong_size"),
        (pack({"a": entry(shape=[2**60, 0], data_offsets=[0, 0])}), "bad_shape"),
        (pack({"a": entry(shape=[], data_offsets=[0, 4])}, bytes(4)), "bad_shape"),
        (pack({"a": entry(shape=[-2])}, bytes(8)), "bad_shape"),
        (pack({"a": entry(shape=[True, 2])}, bytes(8)), "bad_shape"),
        (pack({"a": entry(shape=[2.0])}, bytes(8)), "bad_shape"),
        (pack({"a": entry(shape="2")}, bytes(8)), "bad_shape"),
        (pack({"a": entry(shape=[1] * 9 + [2])}, bytes(8)), "bad_shape"),
        (pack({"a": entry(data_offsets=[-8, 0])}, bytes(8)), "bad_offsets"),
        (pack({"a": entry(data_offsets=[8, 0])}, bytes(8)), "bad_offsets"),
        (pack({"a": entry(data_offsets=[0, 8, 16])}, bytes(8)), "bad_offsets"),
        (pack({"a": entry(dtype="F31")}, bytes(8)), "bad_dtype"),
        (pack({"a": entry(dtype=["F32"])}, bytes(8)), "bad_dtype"),
        (pack({"a": entry(extra=1)}, bytes(8)), "bad_tensor"),
        (pack({"a": [1, 2]}, bytes(8)), "bad_tensor"),
        (pack(b'{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 8]}}', bytes(8)), "bad_number"),
        (pack(b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}', bytes(8)), "bad_number"),
        (pack(b'{"a": {"dtype": "F32", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 8]}}'), "bad_number"),
        (pack(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"), "too_deep"),
        (pack(b'{"a\\u0000b": 1}'), "bad_text"),
        (pack(b'{"\\ud800": 1}'), "bad_text"),
    ],
    ids=short,
)
def test_a_broken_container_is_refused(content: bytes, code: str) -> None:
    assert codes(content) == [code]


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "a/b", "a..b", ".a", "a.", "", "<img src=x>", "a\u202eb", "a b", "a\nb", "w" * 100_000, "é"],
    ids=short,
)
def test_a_hostile_tensor_name_is_refused(name: str) -> None:
    assert codes(pack({name: F32}, bytes(8))) == ["bad_name"]


@pytest.mark.parametrize(
    ("content", "code", "advice"),
    [
        (b"PK\x03\x04" + bytes(100), "pickle", "safetensors.torch.save_file"),
        (b"\x80\x02}q\x00." + bytes(100), "pickle", "weights_only=True"),
        (b"\x1f\x8b\x08" + bytes(100), "archive", "not packed"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(100), "archive", "not packed"),
        (b"adapter".ljust(257, b"\0") + b"ustar\0" + bytes(300), "archive", "not packed"),
        (b'{\n  "peft_type": "LORA"\n}', "wrong_format", "swapped"),
        (b"\n<!DOCTYPE html><html></html>", "wrong_format", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "lfs_pointer", "git lfs pull"),
        (b"GGUF\x03\0\0\0" + bytes(100), "wrong_format", "GGUF"),
    ],
    ids=short,
)
def test_another_format_is_named_with_what_to_do(content: bytes, code: str, advice: str) -> None:
    with pytest.raises(InvalidAdapter) as refusal:
        read(content)
    assert refusal.value.problems[0].code == code
    assert advice in refusal.value.problems[0].message


def test_a_real_torch_file_is_recognised(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "adapter_model.safetensors")
    content = (tmp_path / "adapter_model.safetensors").read_bytes()
    assert codes(content) == ["pickle"]
    torch.save({"a": torch.zeros(2)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert codes((tmp_path / "old.bin").read_bytes()) == ["pickle"]


def test_the_length_of_a_header_is_not_taken_for_a_signature() -> None:
    # A header of 0x8b1f bytes begins with the magic of gzip.
    raw = json.dumps({"a": F32}).encode().ljust(0x8B1F)
    assert list(read(pack(raw, bytes(8))).tensors) == ["a"]
    assert recognise(pack(raw)[:512], "x") is not None


@pytest.mark.parametrize(
    "many",
    [
        lambda: {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(150_000)},
        lambda: b"{" + b",".join(b'"k":1' for _ in range(1_000_000)) + b"}",
        lambda: b"{" + b",".join(b'"k%d":1' % i for i in range(700_000)) + b"}",
    ],
)
def test_a_header_of_the_largest_size_is_refused_quickly(many: Callable[[], object]) -> None:
    content = pack(many())
    begin = time.process_time()
    assert len(codes(content)) <= 21
    assert time.process_time() - begin < 5


def test_all_bad_tensors_are_reported_and_the_rest_counted() -> None:
    bad = {f"t{i}": entry(dtype="X") for i in range(50)}
    assert codes(pack(bad)) == ["bad_dtype"] * 20 + ["more_problems"]


def test_problems_name_the_file_that_was_read() -> None:
    content = pack({"a": entry(dtype="X")})
    with pytest.raises(InvalidAdapter) as refusal:
        read_header(io.BytesIO(content), len(content), "gates.safetensors")
    assert refusal.value.problems[0].where == "gates.safetensors: a"


def test_metadata_of_many_lines_is_kept() -> None:
    recipe = json.dumps({"method": "ties"}, indent=2)
    assert read(save({"a": torch.zeros(2)}, metadata={"recipe": recipe})).metadata == {"recipe": recipe}


GOOD = save({f"base_model.model.l.{i}.lora_A.weight": torch.ones(2, 4) for i in range(3)}, metadata={"format": "pt"})
HEADER_END = 8 + int.from_bytes(GOOD[:8], "little")


@settings(max_examples=300, deadline=10_000, suppress_health_check=[HealthCheck.too_slow])
@given(
    at=st.integers(0, HEADER_END - 1),
    cut=st.integers(0, 40),
    inserted=st.binary(max_size=20),
    end=st.one_of(st.none(), st.integers(0, len(GOOD))),
)
def test_a_damaged_file_is_refused_or_read_and_nothing_else(
    at: int, cut: int, inserted: bytes, end: int | None
) -> None:
    damaged = (GOOD[:at] + inserted + GOOD[at + cut :])[:end]
    try:
        header = read(damaged)
    except InvalidAdapter:
        return
    assert sum(tensor.end - tensor.start for tensor in header.tensors.values()) == len(damaged) - header.data_offset


def test_three_thousand_tensors_are_read_quickly(tmp_path: Path) -> None:
    tensors = {f"base_model.model.layers.{i}.mlp.lora_A.weight": torch.zeros(1, 1) for i in range(3000)}
    save_file(tensors, tmp_path / "many.safetensors")
    content = (tmp_path / "many.safetensors").read_bytes()
    begin = time.process_time()
    assert len(read(content).tensors) == 3000
    assert time.process_time() - begin < 2
