"""How far something is, on one line of a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def progress_line(stream: TextIO, what: str) -> Iterator[Callable[[float], None]]:
    """Yield a function that shows a fraction in [0, 1] in place; the line is gone at the end.

    Nothing is written where the stream is no terminal, so that logs and pipes stay clean.
    """
    shown = ""

    def show(fraction: float) -> None:
        nonlocal shown
        text = f"{what}: {fraction:.0%}"
        if text != shown and stream.isatty():
            stream.write(f"\r{text}\x1b[K")
            stream.flush()
            shown = text

    try:
        yield show
    finally:
        if shown:
            stream.write("\r\x1b[K")
            stream.flush()
