"""Regular expressions from strangers: parsed and judged.

`target_modules`, `exclude_modules` and the keys of rank and alpha patterns are regexes over module paths. Other tools
run them with `re`, so one that could take exponential time there is refused here. See `lora/patterns.py` for matching.
"""

import string
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, log2

MAX_LENGTH = 10_000
MAX_DEPTH = 30
MAX_COUNT = 100  # of {m,n}
# `re` tries about nᵏ ways for k repeats of varying length in a row, and 2ᵏ for k ambiguous choices.
MAX_REPEATS = 6
MAX_CHOICES = 10


class UnsafePattern(ValueError):
    """The pattern is malformed, could take exponential time, or uses what we do not evaluate."""


@dataclass(frozen=True)
class Chars:
    """One character out of a set, or out of its complement."""

    members: frozenset[str]
    negated: bool = False


@dataclass(frozen=True)
class Anchor:
    """A place between characters: `^`, `$` or `b` (the edge of a word)."""

    kind: str


@dataclass(frozen=True)
class Look:
    """Lookaround; judged, never evaluated."""

    body: "Node"


@dataclass(frozen=True)
class Concat:
    """One part after the other."""

    parts: "tuple[Node, ...]"


@dataclass(frozen=True)
class Choice:
    """One branch of several."""

    branches: "tuple[Node, ...]"


@dataclass(frozen=True)
class Repeat:
    """The body `least` to `most` times; None means without bound."""

    body: "Node"
    least: int
    most: int | None


Node = Chars | Anchor | Look | Concat | Choice | Repeat

WORD = frozenset(string.ascii_letters + string.digits + "_")
ANY = Chars(frozenset("\n"), negated=True)
_SETS = {"d": frozenset(string.digits), "w": WORD, "s": frozenset(string.whitespace)}
_QUANTIFIERS = {"*": (0, None), "+": (1, None), "?": (0, 1)}


def parse_pattern(pattern: str) -> Node:
    """Parse a regex of Python's dialect and judge it.

    Raises: UnsafePattern: longer than `MAX_LENGTH`, malformed, uses flags or backreferences, or nests repeats so that
        a backtracking engine could take exponential time.
    """
    if len(pattern) > MAX_LENGTH:
        raise UnsafePattern(f"it has more than {MAX_LENGTH} characters")
    node = _Parser(pattern).whole()
    repeats, choices = _ambiguity(node)
    if repeats > MAX_REPEATS or choices > MAX_CHOICES:
        raise UnsafePattern("it has too many repeats or optional parts in a row")
    return node


class _Parser:
    """Recursive descent over one pattern."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0
        self.depth = 0

    def whole(self) -> Node:
        node = self.choice()
        if self.at < len(self.pattern):
            raise UnsafePattern("it has brackets that do not match")
        return node

    def peek(self) -> str:
        return self.pattern[self.at : self.at + 1]

    def take(self) -> str:
        char = self.peek()
        if not char:
            raise UnsafePattern("it ends too early")
        self.at += 1
        return char

    def skip(self, text: str) -> bool:
        found = self.pattern.startswith(text, self.at)
        self.at += len(text) if found else 0
        return found

    def choice(self) -> Node:
        branches = [self.concat()]
        while self.skip("|"):
            branches.append(self.concat())
        return branches[0] if len(branches) == 1 else Choice(tuple(branches))

    def concat(self) -> Node:
        parts = []
        while self.peek() not in ("", "|", ")"):
            parts.append(self.quantified(self.atom()))
        return Concat(tuple(parts))

    def quantified(self, node: Node) -> Node:
        if self.peek() == "{":
            bounds = self.count()
        elif self.peek() in _QUANTIFIERS and self.peek():
            bounds = _QUANTIFIERS[self.take()]
        else:
            return node
        if isinstance(node, Anchor):
            raise UnsafePattern("it repeats nothing")
        self.skip("?")  # lazy or greedy makes no difference to what a full match accepts
        if self.peek() and self.peek() in "*+?{":
            raise UnsafePattern("it repeats a repeat")
        return Repeat(node, *bounds)

    def count(self) -> tuple[int, int | None]:
        inside, closed, _ = self.pattern[self.at + 1 :].partition("}")
        least, comma, most = inside.partition(",")
        numbers = [number for number in (least, most) if number]
        if not closed or not numbers or not all(n.isascii() and n.isdigit() and len(n) < 5 for n in numbers):
            raise UnsafePattern("it has a malformed {m,n}")
        self.at += len(inside) + 2
        low = int(least or 0)
        high = low if not comma else int(most) if most else None
        if max(low, high or 0) > MAX_COUNT or (high is not None and high < low):
            raise UnsafePattern(f"it counts beyond {MAX_COUNT} or backwards")
        return low, high

    def atom(self) -> Node:
        char = self.take()
        if char == "(":
            return self.group()
        if char == "[":
            return self.members()
        if char == "\\":
            return self.escape()
        if char in "^$":
            return Anchor(char)
        if char in "*+?{":
            raise UnsafePattern("it repeats nothing")
        return ANY if char == "." else Chars(frozenset(char))

    def group(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnsafePattern(f"it nests groups more than {MAX_DEPTH} deep")
        look = any(self.skip(sign) for sign in ("?=", "?!", "?<=", "?<!"))
        if not look and not self.skip("?:") and self.peek() == "?":
            raise UnsafePattern("it uses flags or named groups")
        body = self.choice()
        if not self.skip(")"):
            raise UnsafePattern("it has brackets that do not match")
        self.depth -= 1
        return Look(body) if look else body

    def escape(self) -> Node:
        char = self.take()
        if char.lower() in _SETS:
            return Chars(_SETS[char.lower()], negated=char.isupper())
        if char == "b":
            return Anchor(char)
        if char.isalnum():
            raise UnsafePattern("it uses backreferences or rare escapes")
        return Chars(frozenset(char))

    def members(self) -> Node:
        negated = self.skip("^")
        found: set[str] = set()
        first = True
        while first or self.peek() != "]":
            first = False
            low = self.member()
            if len(low) == 1 and self.peek() == "-" and self.pattern[self.at + 1 : self.at + 2] not in ("]", ""):
                self.take()
                high = self.member()
                if len(high) != 1 or not 0 <= ord(min(high)) - ord(min(low)) < 256:
                    raise UnsafePattern("it has a malformed [range]")
                found.update(map(chr, range(ord(min(low)), ord(min(high)) + 1)))
            found |= low
        self.take()
        return Chars(frozenset(found), negated)

    def member(self) -> frozenset[str]:
        char = self.take()
        if char != "\\":
            return frozenset(char)
        node = self.escape()
        if not isinstance(node, Chars) or node.negated:
            raise UnsafePattern("it has a rare escape inside [ ]")
        return node.members


def _ambiguity(node: Node) -> tuple[int, int]:
    """Return how many repeats of varying length, and how many binary choices, `re` may have to retry in a row."""
    if isinstance(node, Chars | Anchor):
        return 0, 0
    if isinstance(node, Look):
        return _ambiguity(node.body)
    if isinstance(node, Repeat):
        return _ambiguity_of_repeat(node)
    inner = [_ambiguity(part) for part in (node.parts if isinstance(node, Concat) else node.branches)]
    repeats, choices = [count for count, _ in inner], [count for _, count in inner]
    if isinstance(node, Concat):
        return sum(repeats), sum(choices)
    extra = 0 if _prefix_free(node.branches) else ceil(log2(len(node.branches)))
    return max(repeats), max(choices) + extra


def _ambiguity_of_repeat(node: Repeat) -> tuple[int, int]:
    repeats, choices = _ambiguity(node.body)
    if node.most == node.least:
        return repeats * node.least, choices * node.least
    if node.most == 1:
        return repeats, choices + 1
    # A repeat of something that can match in several ways is what takes exponential time: (a+)+, (a|a)*, (a?){2,9}.
    if (repeats, choices) != (0, 0):
        raise UnsafePattern("it repeats a group that can match the same text in several ways")
    return 1, 0


def _prefix_free(branches: Iterable[Node]) -> bool:
    """Return whether the branches are literals of which no two can match at the same place."""
    texts = []
    for branch in branches:
        parts = branch.parts if isinstance(branch, Concat) else (branch,)
        if not all(isinstance(part, Chars) and len(part.members) == 1 and not part.negated for part in parts):
            return False
        texts.append("".join(min(part.members) for part in parts if isinstance(part, Chars)))
    return not any(after.startswith(before) for before, after in pairwise(sorted(texts)))
