"""What a file of `torch.save` holds, without running any of it and without its tensors' values.

The pickle's instructions are followed by a small machine that knows data alone: text, numbers,
lists, dictionaries, and the shapes of tensors. Whatever else a pickle constructs or calls stays an
inert `Other`. Source: the descriptions in the standard library's `pickletools`.
"""

import io
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sdserver.catalog.safetensors_header import Shape

MAX_PICKLE_BYTES = 2 * 2**20
_LEGACY_PICKLES_BEFORE = 3
"""Files of torch before 1.6 are pickles in a row: magic number, version, system, then what was saved."""


@dataclass(slots=True)
class TensorShape:
    """Stands for a tensor."""

    shape: Shape


@dataclass(slots=True)
class Other:
    """Stands for an object or a name of code.

    Attributes:
        name: `module name`, empty for an object that has none.
        state: what it would be given.
    """

    name: str = ""
    state: Any = field(default=None, repr=False)


class _Mark:
    """Where a group of values on the stack begins."""


def read_pickle(path: Path) -> Any:
    """The saved object: dictionaries, lists, tuples, scalars, `TensorShape` and `Other`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such file, is damaged or too long, or needs instructions that data does not.
    """
    try:
        if zipfile.is_zipfile(path):
            return _load(io.BytesIO(_pickle_of(path)))
        with path.open("rb") as file:
            stream = io.BytesIO(file.read(MAX_PICKLE_BYTES))
        for _ in range(_LEGACY_PICKLES_BEFORE):
            _load(stream)
        return _load(stream)
    except (
        zipfile.BadZipFile,
        EOFError,
        IndexError,
        TypeError,
        AttributeError,
        KeyError,
        RuntimeError,
    ) as error:
        raise ValueError(f"it is damaged ({type(error).__name__})") from None
    except NotImplementedError:
        raise ValueError("it is compressed in a way that is not read") from None


def _pickle_of(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        name = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if name is None:
            raise ValueError("it holds no data.pkl")
        with archive.open(name) as stream:
            content = stream.read(MAX_PICKLE_BYTES + 1)
    if len(content) > MAX_PICKLE_BYTES:
        raise ValueError(f"its pickle is longer than {MAX_PICKLE_BYTES} bytes")
    return content


def _load(stream: io.BytesIO) -> Any:
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "STOP":
            return machine.stack.pop()
        machine.step(opcode.name, argument)
    raise ValueError("it has no end")


class _Machine:
    """The stack and the memo of a pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Follow one instruction. Raises ValueError for one that is not known."""
        if name in _PUSHED:
            self.stack.append(argument)
        elif name in _MADE:
            self.stack.append(_MADE[name]())
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in _IGNORED:
            raise ValueError(f"it needs the instruction {name}")

    def group(self) -> list[Any]:
        """The values behind the last mark; they and it are taken off."""
        start = len(self.stack) - 1
        while type(self.stack[start]) is not _Mark:
            start -= 1
            if start < 0:
                raise ValueError("it has a group without a beginning")
        values = self.stack[start + 1 :]
        del self.stack[start:]
        return values

    def put(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self._memo[index])

    def tuple_of(self, count: int) -> None:
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(values)

    def set_items(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update(
                (key, value)
                for key, value in zip(pairs[::2], pairs[1::2], strict=True)
                if isinstance(key, str | int)
            )

    def extend(self, values: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)

    def call(self) -> None:
        arguments, made_by = self.stack.pop(), self.stack.pop()
        self.stack.append(_called(made_by, arguments))

    def build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Other):
            self.stack[-1].state = state

    def name_of_two(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(Other(f"{module} {name}"))

    def stored(self) -> None:
        self.stack.pop()
        self.stack.append(Other())


def _called(made_by: Any, arguments: Any) -> Any:
    name = made_by.name if isinstance(made_by, Other) else ""
    match name, arguments:
        case (
            "torch._utils _rebuild_tensor_v2" | "torch._utils _rebuild_tensor",
            (_, _, tuple(shape), *_),
        ) if all(type(side) is int and side >= 0 for side in shape):
            return TensorShape(shape)
        case "torch._utils _rebuild_parameter", (TensorShape() as tensor, *_):
            return tensor
        case "collections OrderedDict", ():
            return {}
        case _:
            return Other()


_PUSHED: Final = frozenset(
    {
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "LONG4",
        "BINFLOAT",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
    }
)
_IGNORED: Final = frozenset({"PROTO", "FRAME"})
_MADE: Final[Mapping[str, Callable[[], Any]]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": _Mark,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_ACTIONS: Final[Mapping[str, Callable[[_Machine, Any], None]]] = {
    "BINPUT": lambda machine, index: machine.put(index),
    "LONG_BINPUT": lambda machine, index: machine.put(index),
    "MEMOIZE": lambda machine, _: machine.put(None),
    "BINGET": lambda machine, index: machine.get(index),
    "LONG_BINGET": lambda machine, index: machine.get(index),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.group())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "SETITEMS": lambda machine, _: machine.set_items(machine.group()),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(-2), machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.group()),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "GLOBAL": lambda machine, name: machine.stack.append(Other(str(name))),
    "STACK_GLOBAL": lambda machine, _: machine.name_of_two(),
    "REDUCE": lambda machine, _: machine.call(),
    "NEWOBJ": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.stored(),
    "POP": lambda machine, _: machine.stack.pop() and None,
}
