"""What `torch.save` wrote, taken apart instead of unpickled: nothing that a file names is imported, called or built.

A pickle is a program for a stack machine. Here its instructions are followed with inert stand-ins: a name stays a
name, a call becomes an `Opaque` that holds the name and the arguments. Only tensors are made, by this file, from the
bytes beside.
"""

import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

MAX_STEPS = 2_000_000
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


class NotReadable(ValueError):
    """The file is no archive of `torch.save`, is damaged, or uses what plain data does not need."""


@dataclass(frozen=True)
class Name:
    """What a file calls a class or a function by, as module.attribute."""

    text: str


@dataclass
class Opaque:
    """An object that the file wants to have built; it is not. `state` is what would be put into it."""

    name: str
    args: tuple[Any, ...]
    state: Any = field(default=None)


def read_archive(path: Path) -> Any:
    """Return what was saved: dicts, lists, tuples, text, numbers and tensors; everything else as `Opaque`.

    Raises: NotReadable.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            [program] = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
            return _Machine(archive, program.removesuffix("data.pkl")).run(_bytes(archive, program))
    except NotReadable:
        raise
    except Exception as error:  # whatever hostile bytes make of zipfile, pickletools or the stack
        raise NotReadable(f"{path.name} is no archive of torch.save, or damaged: {error!r}") from error


def _bytes(archive: zipfile.ZipFile, name: str) -> bytes:
    # As torch writes them. Compressed, a small file could stand for any size.
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise NotReadable(f"{name} is compressed; torch.save stores plainly.")
    return archive.read(name)


_MARK = object()


class _Machine:
    """The stack, and what is remembered."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self.archive, self.root = archive, root
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, torch.Tensor] = {}

    def run(self, program: bytes) -> Any:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(program)):
            if step > MAX_STEPS:
                raise NotReadable("It is too long a program for plain data.")
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[opcode.name]())
            elif opcode.name in _VALUES:
                self.stack.append(argument)
            elif opcode.name in _STEPS:
                _STEPS[opcode.name](self, argument)
            elif opcode.name not in ("PROTO", "FRAME"):
                raise NotReadable(f"It uses {opcode.name}, which plain data does not need.")
        raise NotReadable("It ends too early.")

    def since_mark(self) -> list[Any]:
        place = max(i for i, item in enumerate(self.stack) if item is _MARK)
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def remember(self, place: int | None) -> None:
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def tuple_of(self, count: int | None) -> None:
        items = self.since_mark() if count is None else [self.stack.pop() for _ in range(count)][::-1]
        self.stack.append(tuple(items))

    def set_items(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise NotReadable("It fills something that is no dict.")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise NotReadable("It fills something that is no list.")
        self.stack[-1].extend(items)

    def name(self, text: str | None) -> None:
        if text is None:
            last, module = self.stack.pop(), self.stack.pop()
            text = f"{module} {last}"
        self.stack.append(Name(text.replace(" ", ".", 1)))

    def call(self) -> None:
        args, called = self.stack.pop(), self.stack.pop()
        if not isinstance(called, Name) or not isinstance(args, tuple):
            raise NotReadable("It calls something that is no name.")
        text = called.text
        if text == "collections.OrderedDict" and args == ():
            self.stack.append({})
        elif text == "torch._utils._rebuild_tensor_v2":
            self.stack.append(self.tensor(*args[:4]))
        elif text == "torch._utils._rebuild_parameter":
            self.stack.append(args[0])
        else:
            self.stack.append(Opaque(text, args))

    def build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Opaque):
            self.stack[-1].state = state

    def storage(self) -> None:
        kind, storage, key, _, count = self.stack.pop()
        dtype = DTYPES.get(storage.text.removeprefix("torch.")) if isinstance(storage, Name) else None
        if kind != "storage" or dtype is None or not str(key).isdigit():
            raise NotReadable(f"It refers to {storage!r}, which is no storage of numbers.")
        if key not in self.storages:
            raw = bytearray(_bytes(self.archive, f"{self.root}data/{key}"))
            self.storages[key] = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        if len(self.storages[key]) != count or self.storages[key].dtype != dtype:
            raise NotReadable(f"Storage {key} has another size than it is said to have.")
        self.stack.append(self.storages[key])

    @staticmethod
    def tensor(storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        is_empty = 0 in size
        if offset < 0 or min((0, *size, *stride)) < 0 or (not is_empty and last >= len(storage)):
            raise NotReadable("A tensor reaches beyond its storage.")
        return storage.as_strided(size, stride, offset).clone()


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": list,
    "MARK": lambda: _MARK,
}
_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES"),
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "BINPUT": lambda m, place: m.remember(place),
    "LONG_BINPUT": lambda m, place: m.remember(place),
    "MEMOIZE": lambda m, _: m.remember(None),
    "BINGET": lambda m, place: m.stack.append(m.memo[place]),
    "LONG_BINGET": lambda m, place: m.stack.append(m.memo[place]),
    "TUPLE": lambda m, _: m.tuple_of(None),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "SETITEM": lambda m, _: m.set_items([m.stack.pop() for _ in range(2)][::-1]),
    "SETITEMS": lambda m, _: m.set_items(m.since_mark()),
    "APPEND": lambda m, _: m.extend([m.stack.pop()]),
    "APPENDS": lambda m, _: m.extend(m.since_mark()),
    "ADDITEMS": lambda m, _: m.extend(m.since_mark()),
    "GLOBAL": lambda m, text: m.name(text),
    "STACK_GLOBAL": lambda m, _: m.name(None),
    "BINPERSID": lambda m, _: m.storage(),
    "REDUCE": lambda m, _: m.call(),
    "NEWOBJ": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.build(),
}
