"""The line that tells how far a merge is."""

import io

import pytest

from lora.progress_line import progress_line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_shows_each_percentage_once_and_leaves_an_empty_line() -> None:
    terminal = Terminal()
    with progress_line(terminal, "Merging") as show:
        for fraction in (0.0, 0.501, 0.5049, 1.0):
            show(fraction)
    assert terminal.getvalue() == "\rMerging: 0%\x1b[K\rMerging: 50%\x1b[K\rMerging: 100%\x1b[K\r\x1b[K"


def test_clears_the_line_before_an_error_is_told() -> None:
    terminal = Terminal()
    with pytest.raises(OSError, match="full"):
        _fail(terminal)
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_writes_nothing_where_there_is_no_terminal() -> None:
    log = io.StringIO()
    with progress_line(log, "Merging") as show:
        show(0.5)
    assert log.getvalue() == ""


def _fail(terminal: Terminal) -> None:
    with progress_line(terminal, "Merging") as show:
        show(0.25)
        raise OSError("disk full")
