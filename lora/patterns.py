"""Regular expressions from strangers, matched against module paths without backtracking and on a budget.

Thompson's automaton (CACM 1968, explained in https://swtch.com/~rsc/regexp/regexp1.html) with remembered steps.
"""

from collections.abc import Iterable, Sequence

from lora.pattern_syntax import ANY, WORD, Anchor, Chars, Choice, Concat, Node, Repeat, UnsafePattern, parse_pattern

MAX_STATES = 50_000
MAX_STEPS = 10_000_000  # a few seconds, for all paths of a file together


class Matcher:
    """Tells which of several patterns matches a whole text first, in time linear in the text.

    Args:
        nodes: parsed patterns; the position in this list is their rank.
    Raises: UnsafePattern: a pattern looks around, or all together are too large.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._chars: list[Chars | None] = []
        self._anchors: list[str] = []
        self._next: list[tuple[int, ...]] = []
        self._accepting = {self._state(): rank for rank in range(len(nodes))}
        self._starts = [self._build(node, end) for end, node in enumerate(nodes)]
        self._known: dict[tuple[frozenset[int], str, str], frozenset[int]] = {}
        self._steps = 0

    def first(self, text: str) -> int | None:
        """Return the lowest rank of the patterns that match the whole text, or None.

        Raises: UnsafePattern: the budget of steps is used up.
        """
        states = self._closure(self._starts, "", text[:1])
        for at, char in enumerate(text):
            states = self._step(states, char, text[at + 1 : at + 2])
        return min((self._accepting[state] for state in states if state in self._accepting), default=None)

    def _step(self, states: frozenset[int], char: str, after: str) -> frozenset[int]:
        # Only whether the next character is there and is a word character can matter: for $ and \b.
        key = (states, char, after and ("w" if after in WORD else "-"))
        if key not in self._known:
            targets = [self._next[state][0] for state in states if _accepts(self._chars[state], char)]
            self._known[key] = self._closure(targets, char, after)
            self._spend(len(states))
        return self._known[key]

    def _closure(self, states: Iterable[int], before: str, after: str) -> frozenset[int]:
        pending, found = list(states), set[int]()
        while pending:
            state = pending.pop()
            if state in found or not _holds(self._anchors[state], before, after):
                continue
            found.add(state)
            if self._chars[state] is None:
                pending += self._next[state]
        self._spend(len(found))
        return frozenset(found)

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise UnsafePattern("the patterns take too long to match")

    def _state(self, chars: Chars | None = None, anchor: str = "", then: tuple[int, ...] = ()) -> int:
        if len(self._next) >= MAX_STATES:
            raise UnsafePattern("the patterns are too large together")
        self._chars.append(chars)
        self._anchors.append(anchor)
        self._next.append(then)
        return len(self._next) - 1

    def _build(self, node: Node, then: int) -> int:
        """Return the state that matches `node` and goes on to `then`."""
        if isinstance(node, Chars):
            return self._state(chars=node, then=(then,))
        if isinstance(node, Anchor):
            return self._state(anchor=node.kind, then=(then,))
        if isinstance(node, Concat):
            for part in reversed(node.parts):
                then = self._build(part, then)
            return then
        if isinstance(node, Choice):
            return self._state(then=tuple(self._build(branch, then) for branch in node.branches))
        if isinstance(node, Repeat):
            return self._build_repeat(node, then)
        raise UnsafePattern("it looks ahead or behind")

    def _build_repeat(self, node: Repeat, then: int) -> int:
        entry = then
        if node.most is None:
            entry = self._state()
            self._next[entry] = (self._build(node.body, entry), then)
        else:
            for _ in range(node.most - node.least):
                entry = self._state(then=(self._build(node.body, entry), then))
        for _ in range(node.least):
            entry = self._build(node.body, entry)
        return entry


def _accepts(chars: Chars | None, char: str) -> bool:
    return chars is not None and (char in chars.members) is not chars.negated


def _holds(anchor: str, before: str, after: str) -> bool:
    if anchor == "^":
        return not before
    if anchor == "$":
        return not after
    return not anchor or (before in WORD) is not (after in WORD)


class PatternTable:
    """Which key of a rank or alpha pattern applies to a module path: the first k with `^(.*\\.)?(k)$`, as in PEFT.

    Keys without operators are looked up, since a file may name each of thousands of modules. Their dots stand for any
    character, as in every regex.

    Args:
        keys: in the config's order.
    Raises: UnsafePattern: a key is malformed, unsafe or looks around.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = list(keys)
        self._literals: dict[int, dict[tuple[int, ...], dict[str, int]]] = {}
        self._others: list[int] = []
        nodes = []
        for order, key in enumerate(self._keys):
            if all(char in WORD or char in ".-" for char in key):
                dots = tuple(at for at, char in enumerate(key) if char == ".")
                self._literals.setdefault(len(key), {}).setdefault(dots, {}).setdefault(key, order)
            else:
                self._others.append(order)
                prefix = Repeat(Concat((Repeat(ANY, 0, None), Chars(frozenset(".")))), 0, 1)
                nodes.append(Concat((prefix, parse_pattern(key))))
        self._matcher = Matcher(nodes)
        self._steps = 0

    def first(self, path: str) -> str | None:
        """Return the first key that applies to the path, or None.

        Raises: UnsafePattern: the keys take too long to match.
        """
        if not self._keys:
            return None
        orders = self._literal_orders(path)
        rank = self._matcher.first(path)
        if rank is not None:
            orders.append(self._others[rank])
        return self._keys[min(orders)] if orders else None

    def _literal_orders(self, path: str) -> list[int]:
        orders = []
        for start in [0, *(at + 1 for at, char in enumerate(path) if char == ".")]:
            suffix = path[start:]
            for dots, table in self._literals.get(len(suffix), {}).items():
                blanked = list(suffix)
                for at in dots:
                    blanked[at] = "."
                self._steps += len(suffix)
                order = table.get("".join(blanked))
                if order is not None:
                    orders.append(order)
        if self._steps > MAX_STEPS * 10:
            raise UnsafePattern("the patterns take too long to match")
        return orders
