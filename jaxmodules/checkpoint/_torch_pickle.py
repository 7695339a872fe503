"""Run the pickles that PyTorch writes on a small machine of our own.

A pickle is a program, and Python's own machine for it gives a program from a stranger more than it should have. Here

- a global is looked up in a table of the caller's and nowhere else: nothing is imported, and only the functions of
  the table are called;
- a length is compared with what is left of the file before anything is made of it, and a memo is a dict: memory
  grows with the file, whatever it says;
- what a program can repeat on one long value (each call copies its argument) is paid for out of a budget that
  grows with the file, and keys are of kinds whose hashes cannot be made to collide, or take long, by design;
- no opcode jumps back, and none recurses: a program ends, and nesting as deep as the file is long does no harm.

Protocols 1 to 5 are understood, as far as ``pickle.dump`` goes; what needs buffers out of band, extension registries or
text-mode memos is not.
"""

import inspect
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxmodules.checkpoint._errors import CheckpointError

_SPARE = 1 << 16  # what small programs may copy
_COPIES = 4  # how often a program may copy as much as it is long
_ODD_KEYS = 10_000
_KEY_PARTS = 64


class Function:
    """A global that may be called: the name a file knows it by, and what is called in its place.

    What is called gets the machine and then the arguments of the file, whose number is checked and whose types are not.
    """

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        parameters = list(inspect.signature(call).parameters.values())[1:]
        self.name = name
        self.call = call
        self.counts = range(sum(p.default is p.empty for p in parameters), len(parameters) + 1)


class Machine:
    """One pickle in some bytes; :meth:`run` returns what it stands for and leaves ``position`` behind it.

    Args:
        data: the bytes.
        world: what it can ask for besides plain values: ``find(name)`` a global, ``build(machine, instance, state)`` an
            object into the state it was saved with, ``persistent(key)`` for what lies outside the pickle; and
            ``settle(value)`` says what becomes of a value that is put into a list or a dict, or is all there is.
        position: where in the bytes it begins.

    Raises:
        CheckpointError: the program is cut off, damaged, or asks for what it should not.
    """

    def __init__(self, data: bytes | memoryview, world: Any, position: int = 0) -> None:
        self.data = data
        self.position = position
        self.world = world
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._budget = _SPARE
        self._odd_keys = 0

    def run(self) -> Any:
        """Run the program to its end."""
        start = self.position
        while True:
            opcode = self._take(1)[0]
            if opcode == _STOP:
                break
            step = _STEPS.get(opcode)
            if step is None:
                raise CheckpointError(f"its pickle has the opcode {bytes([opcode])!r}, which PyTorch does not write")
            step(self)
            self._budget += _COPIES * (self.position - start)
            start = self.position
        if self._marks or len(self._stack) != 1:
            raise CheckpointError("its pickle ends in the middle of a value")
        return self.world.settle(self._stack.pop())

    def spend(self, count: int) -> None:
        """Pay for a copy of so many elements or bytes."""
        self._budget -= count
        if self._budget < 0:
            raise CheckpointError("its pickle copies the same values again and again: it was made to fill the memory")

    def check_key(self, key: Any) -> None:
        """Raise unless a value may be a key of a dict or a member of a set."""
        if type(key) in (str, bytes, bool, float, type(None)) or (type(key) is int and abs(key) < 1 << 64):
            return
        if isinstance(key, np.dtype) or (isinstance(key, np.generic) and key.dtype.kind in "biuf"):
            return
        self._odd_keys += 1
        if self._odd_keys > _ODD_KEYS:
            raise CheckpointError(f"its pickle has more than {_ODD_KEYS:,} keys that are tuples or complex numbers")
        parts = [key]
        for part in parts:
            if type(part) is tuple:
                parts.extend(part[: _KEY_PARTS + 1])
            elif type(part) not in (str, bytes, bool, float, type(None), complex, int) or (
                type(part) is int and abs(part) >= 1 << 64
            ):
                raise CheckpointError(f"its pickle has a key of type {type(part).__name__}, or an int of over 64 bits")
            if len(parts) > _KEY_PARTS:
                raise CheckpointError(f"its pickle has a key of more than {_KEY_PARTS} parts")

    def _take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.data):
            raise CheckpointError("its pickle is cut off")
        taken = bytes(self.data[self.position : end])
        self.position = end
        return taken

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _line(self) -> bytes:
        start = self.position
        while self._take(1) != b"\n":
            if self.position - start > 1000:
                raise CheckpointError("its pickle has a line of over 1,000 bytes where a name or number should be")
        return bytes(self.data[start : self.position - 1])

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack:
            raise CheckpointError("its pickle takes a value from where there is none")
        return self._stack.pop()

    def _pop_mark(self) -> list[Any]:
        if not self._marks:
            raise CheckpointError("its pickle takes values from where there are none")
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _top(self, kinds: tuple[type, ...]) -> Any:
        if not self._stack or type(self._stack[-1]) not in kinds:
            found = type(self._stack[-1]).__name__ if self._stack else "nothing"
            raise CheckpointError(f"its pickle puts values into {found}, expected a {kinds[0].__name__}")
        return self._stack[-1]

    def _mark(self) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _discard(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_mark()

    def _tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self._push(tuple(reversed(items)))

    def _append(self, values: list[Any]) -> None:
        self._top((list,)).extend(map(self.world.settle, values))

    def _append_one(self) -> None:
        self._append([self._pop()])

    def _set_one(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def _set_items(self, items: list[Any]) -> None:
        target = self._top((dict, OrderedDict, Counter))
        if len(items) % 2:
            raise CheckpointError("its pickle has a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.check_key(key)
            target[key] = self.world.settle(value)

    def _dict(self) -> None:
        items = self._pop_mark()
        self._push({})
        self._set_items(items)

    def _add(self) -> None:
        items = self._pop_mark()
        target = self._top((set,))
        for item in items:
            self.check_key(item)
            target.add(item)

    def _frozen(self) -> None:
        items = self._pop_mark()
        for item in items:
            self.check_key(item)
        self._push(frozenset(items))

    def _put(self, index: int) -> None:
        if not self._stack:
            raise CheckpointError("its pickle remembers a value where there is none")
        self._memo[index] = self._stack[-1]

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise CheckpointError("its pickle recalls a value that it never had")
        self._push(self._memo[index])

    def _integer(self, digits: bytes) -> None:
        if digits in (b"00", b"01"):
            return self._push(digits == b"01")
        try:
            return self._push(int(digits.rstrip(b"L")))
        except ValueError as error:
            raise CheckpointError(f"its pickle has {digits[:40]!r} where a number should be") from error

    def _bytes(self, form: str) -> bytes:
        return self._take(self._number(form))

    def _text(self, form: str) -> None:
        try:
            self._push(self._bytes(form).decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError as error:
            raise CheckpointError("its pickle has a text that is not UTF-8") from error

    def _old_text(self, form: str) -> None:
        value = self._bytes(form)  # Python 2 had one type for text and bytes
        try:
            self._push(value.decode())
        except UnicodeDecodeError:
            self._push(value)

    def _global(self) -> None:
        self._find(self._line().decode("utf-8", "backslashreplace"), self._line().decode("utf-8", "backslashreplace"))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise CheckpointError("its pickle has a global whose name is no text")
        self._find(module, name)

    def _find(self, module: str, name: str) -> None:
        self._push(self.world.find(f"{'builtins' if module == '__builtin__' else module}.{name}"))

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, Function) or type(arguments) is not tuple:
            raise CheckpointError(f"its pickle calls {describe(function)} with {describe(arguments)}")
        if len(arguments) not in function.counts:
            raise CheckpointError(f"its pickle calls {function.name} with {len(arguments)} arguments")
        self._push(function.call(self, *arguments))

    def _build(self) -> None:
        state = self._pop()
        if not self._stack:
            raise CheckpointError("its pickle gives a state to nothing")
        self.world.build(self, self._stack[-1], state)

    def _persistent(self) -> None:
        self._push(self.world.persistent(self._pop()))


def describe(value: Any) -> str:
    """Return what a value of a pickle is, in a word: to spell it out could take for ever."""
    if isinstance(value, Function):
        return value.name
    if type(value) is str:
        return repr(value[:80])
    if type(value) is tuple and len(value) < 10 and all(type(n) is int and abs(n) < 1 << 64 for n in value):
        return str(value)
    return str(value) if value is None or (type(value) is int and abs(value) < 1 << 64) else f"a {type(value).__name__}"


_STOP = ord(".")
_STEPS: dict[int, Callable[[Machine], Any]] = {
    ord(opcode): step
    for opcode, step in {
        "\x80": lambda m: m._take(1),  # protocol
        "\x95": lambda m: m._take(8),  # frame
        "(": Machine._mark,
        "0": Machine._discard,
        "1": Machine._pop_mark,
        "N": lambda m: m._push(None),
        "\x88": lambda m: m._push(True),
        "\x89": lambda m: m._push(False),
        "J": lambda m: m._push(m._number("<i")),
        "K": lambda m: m._push(m._number("<B")),
        "M": lambda m: m._push(m._number("<H")),
        "G": lambda m: m._push(m._number(">d")),
        "I": lambda m: m._integer(m._line()),
        "L": lambda m: m._integer(m._line()),
        "\x8a": lambda m: m._push(int.from_bytes(m._bytes("<B"), "little", signed=True)),
        "\x8b": lambda m: m._push(int.from_bytes(m._bytes("<I"), "little", signed=True)),
        "X": lambda m: m._text("<I"),
        "\x8c": lambda m: m._text("<B"),
        "\x8d": lambda m: m._text("<Q"),
        "U": lambda m: m._old_text("<B"),
        "T": lambda m: m._old_text("<I"),
        "C": lambda m: m._push(m._bytes("<B")),
        "B": lambda m: m._push(m._bytes("<I")),
        "\x8e": lambda m: m._push(m._bytes("<Q")),
        "\x96": lambda m: m._push(bytearray(m._bytes("<Q"))),
        "]": lambda m: m._push([]),
        "a": Machine._append_one,
        "e": lambda m: m._append(m._pop_mark()),
        "l": lambda m: m._push(m._pop_mark()),
        ")": lambda m: m._push(()),
        "t": lambda m: m._push(tuple(m._pop_mark())),
        "\x85": lambda m: m._tuple(1),
        "\x86": lambda m: m._tuple(2),
        "\x87": lambda m: m._tuple(3),
        "}": lambda m: m._push({}),
        "d": Machine._dict,
        "s": Machine._set_one,
        "u": lambda m: m._set_items(m._pop_mark()),
        "\x8f": lambda m: m._push(set()),
        "\x90": Machine._add,
        "\x91": Machine._frozen,
        "q": lambda m: m._put(m._number("<B")),
        "r": lambda m: m._put(m._number("<I")),
        "\x94": lambda m: m._put(len(m._memo)),
        "h": lambda m: m._get(m._number("<B")),
        "j": lambda m: m._get(m._number("<I")),
        "c": Machine._global,
        "\x93": Machine._stack_global,
        "R": Machine._reduce,
        "\x81": Machine._reduce,  # a class and the arguments for it
        "b": Machine._build,
        "Q": Machine._persistent,
    }.items()
}
