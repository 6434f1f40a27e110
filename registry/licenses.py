"""What the licences of parents say about a merge: which cannot go together, and what the result may be licensed under.

A reading of the licences' own words about derived works, for a warning and a suggestion; it is no legal advice. Names
are those of SPDX (spdx.org/licenses) and of the Hub's model cards, in any case.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

OTHER = "other"  # the Hub's name for terms that no identifier stands for


@dataclass(frozen=True)
class License:
    """What a licence asks of what is made of the work.

    Attributes:
        strength: among licences that go together, the result bears the strongest.
        binds: the result is under this very licence, or one of `becomes`.
        becomes: licences that a work under this one may be passed on under.
        shuts_out: licences whose works its own terms do not go with, though it binds nothing.
        noncommercial: only for non-commercial use.
        forbids: the work may be passed on unchanged only.
    """

    strength: int
    binds: bool = False
    becomes: frozenset[str] = frozenset()
    shuts_out: frozenset[str] = frozenset()
    noncommercial: bool = False
    forbids: bool = False


def _permissive(strength: int, *shuts_out: str) -> License:
    return License(strength, shuts_out=frozenset(shuts_out))


def _copyleft(strength: int, *becomes: str, noncommercial: bool = False) -> License:
    return License(strength, binds=True, becomes=frozenset(becomes), noncommercial=noncommercial)


_GPL3 = ("gpl-3.0", "agpl-3.0")
_LICENSES: dict[str, License] = {
    # Public domain and permissive: keep the notices.
    **dict.fromkeys(("cc0-1.0", "unlicense", "0bsd", "wtfpl", "pddl"), _permissive(0)),
    **dict.fromkeys(("mit", "isc", "zlib", "bsl-1.0", "postgresql", "ncsa"), _permissive(1)),
    **dict.fromkeys(("bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear"), _permissive(2)),
    **dict.fromkeys(("cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0"), _permissive(3)),
    **dict.fromkeys(("odc-by", "cdla-permissive-2.0"), _permissive(3)),
    # Its patent clause is a further restriction to version 2 of the GNU licences.
    "apache-2.0": _permissive(4, "gpl-2.0", "lgpl-2.1"),
    # Weak copyleft: the result stays under it, or under a stronger one that it names.
    "mpl-2.0": _copyleft(5, "lgpl-2.1", "lgpl-3.0", "gpl-2.0", *_GPL3),
    "epl-2.0": _copyleft(5),
    "lgpl-2.1": _copyleft(6, "gpl-2.0", *_GPL3),
    "lgpl-3.0": _copyleft(7, *_GPL3),
    # Strong copyleft and share-alike.
    "gpl-2.0": _copyleft(8),
    "gpl-2.0-or-later": _copyleft(8, "gpl-2.0", *_GPL3),
    "gpl-3.0": _copyleft(9, "agpl-3.0"),
    "agpl-3.0": _copyleft(10),
    "cc-by-sa-3.0": _copyleft(8, "cc-by-sa-4.0", *_GPL3),
    "cc-by-sa-4.0": _copyleft(8, *_GPL3),
    "odbl": _copyleft(8),
    # Non-commercial.
    **dict.fromkeys(("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0"), License(11, noncommercial=True)),
    "cc-by-nc-sa-3.0": _copyleft(12, "cc-by-nc-sa-4.0", noncommercial=True),
    "cc-by-nc-sa-4.0": _copyleft(12, noncommercial=True),
    # Community licences: their terms of use go with every derived model.
    **dict.fromkeys(
        ("llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "gemma", "openrail", "openrail++",
         "creativeml-openrail-m", "bigscience-openrail-m", "bigscience-bloom-rail-1.0", "bigcode-openrail-m",
         "deepseek", "qwen"),
        _copyleft(9),
    ),
    # No derivatives.
    **dict.fromkeys(("cc-by-nd-3.0", "cc-by-nd-4.0"), License(13, forbids=True)),
    **dict.fromkeys(("cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"), License(13, noncommercial=True, forbids=True)),
}  # fmt: skip
_COPYLEFT = frozenset(name for name in _LICENSES if re.match(r"(a|l)?gpl|mpl|epl|cc-by-sa|odbl", name))


def forbids_merging(name: str) -> bool:
    """Whether a licence lets the work be passed on unchanged only."""
    found = _LICENSES.get(_key(name))
    return found is not None and found.forbids


def conflict(first: str, second: str) -> bool:
    """Whether nothing may be made of works under both; False where one of them is not known."""
    a, b = _key(first), _key(second)
    if a == b or not {a, b} <= _LICENSES.keys():
        return False
    return not (_flows(a, b) or _flows(b, a) or _both_apply(a, b))


def suggest(names: Iterable[str]) -> str:
    """A licence for what is made of works under these; "" where one is not known or two conflict.

    `OTHER` where no single one covers it, because the terms of several apply together.
    """
    keys = {_key(name) for name in names}
    if not keys or not keys <= _LICENSES.keys() or any(conflict(a, b) for a in keys for b in keys):
        return next(iter(keys)) if len(keys) == 1 else ""
    for name in sorted(keys, key=lambda key: (-_LICENSES[key].strength, key)):
        if all(_flows(other, name) for other in keys):
            return name
    return OTHER


def warnings(licenses: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """What to know before a merge is passed on, as `{code, message}`.

    Args:
        licenses: of every parent, by its name; "" where none is stated.
    """
    for (first, one), (second, other) in combinations(licenses.items(), 2):
        if conflict(one, other):
            message = (
                f"{first} is under {one} and {second} under {other}, whose terms contradict each other: keep the merge "
                "to yourself, or ask one of the authors."
            )
            yield {"code": "license_conflict", "message": message}
    unknown = [f"{name} ({stated or 'none stated'})" for name, stated in licenses.items() if not is_known(stated)]
    if unknown and len({_key(stated) for stated in licenses.values()}) > 1:
        message = f"Whether these licences allow a merge with the others is not known here: {', '.join(unknown)}."
        yield {"code": "license_unknown", "message": message}


def is_known(name: str) -> bool:
    """Whether the table has a licence."""
    return _key(name) in _LICENSES


def _key(name: str) -> str:
    """The table's name: `GPL-3.0-or-later` and `GPL-3.0-only` are `gpl-3.0` here."""
    key = name.strip().lower()
    return key if key in _LICENSES else re.sub(r"(-only|-or-later)$", "", key)


def _flows(source: str, result: str) -> bool:
    """Whether a work under `source` may go into one that bears `result`."""
    given, wanted = _LICENSES[source], _LICENSES[result]
    if source == result or result in given.becomes:
        return True
    if given.binds or given.forbids or result in given.shuts_out:
        return False
    return wanted.noncommercial or not given.noncommercial


def _both_apply(a: str, b: str) -> bool:
    """Whether two licences can both go with the result: terms of use and non-commercial ones, without copyleft."""
    one, other = _LICENSES[a], _LICENSES[b]
    return not (one.forbids or other.forbids) and not {a, b} & _COPYLEFT and not (one.binds and other.binds)
