"""Texts that ship: real inputs of many tasks, so that the space knows what texts look like before any expert comes, and
far ones, so that it knows what most experts are not for."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

from lora.hybrid.wrappers import unwrap

FAR_FILE = Path(__file__).with_name("far.jsonl")
FILE = Path(__file__).with_name("background.jsonl.gz")


@dataclass(frozen=True)
class BackgroundTask:
    """One task of the background: its name, its licence, and texts, unwrapped."""

    name: str
    licence: str
    texts: list[str]


def load_background() -> list[BackgroundTask]:
    """Return the tasks of the file beside this module, whose sources BACKGROUND.md tells."""
    with gzip.open(FILE, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [BackgroundTask(row["task"], row["license"], [unwrap(text) for text in row["texts"]]) for row in rows]


@dataclass(frozen=True)
class FarKind:
    """A kind of text that few experts are for, such as a language, code or noise, and texts of it, unwrapped."""

    name: str
    texts: list[str]


def load_far() -> list[FarKind]:
    """Return the far kinds of the file beside this module, written for it and as free as the code."""
    with FAR_FILE.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [FarKind(row["kind"], [unwrap(text) for text in row["texts"]]) for row in rows]
