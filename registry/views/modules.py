"""The numbers of an adapter's modules as CSV."""

import csv
from collections.abc import Iterator
from typing import Any

COLUMNS = ("path", "rank", "d_in", "d_out", "scaling", "norm", "stable_rank")
# A spreadsheet takes a cell that begins so for a formula, and paths come from strangers' files.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


class _Line:
    """What csv.writer writes into: hands back each line."""

    def write(self, line: str) -> str:
        return line


def modules_csv(modules: list[dict[str, Any]]) -> Iterator[str]:
    """A header, and a line per module: its facts and then its singular values, largest first."""
    writer = csv.writer(_Line())
    most = max((len(module.get("sigma") or ()) for module in modules), default=0)
    yield writer.writerow([*COLUMNS, *(f"sigma_{number}" for number in range(1, most + 1))])
    for module in modules:
        values = [module.get(column) for column in COLUMNS]
        values[0] = f"'{values[0]}" if str(values[0]).startswith(FORMULA) else values[0]
        yield writer.writerow([*values, *(module.get("sigma") or ())])
