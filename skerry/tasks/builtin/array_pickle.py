"""Arrays and lists from a pickle of Python 2 as data: the few opcodes that CIFAR-10's batches use, and nothing is run.

A pickle is a program that names functions and calls them. This reader knows three names, which stand for "here comes an
array", and calls none of them: whatever else a file names or does, it is refused.
"""

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

OPCODES_MAX = 1 << 18  # a batch of CIFAR-10 has some 50,000
LARGE_BYTES = 256  # longer strings stay where they are in the file


class MalformedPickle(ValueError):  # noqa: N818 - the same word as for frames and vectors
    """Cut off, inconsistent, or more than this reader does."""


@dataclass(slots=True)
class _Name:
    """A function that the file names; it is never looked up."""

    name: str


@dataclass(slots=True, eq=False)
class _Made:
    """What such a function would return, and what the file then puts into it."""

    by: str
    arguments: tuple[Any, ...]
    state: tuple[Any, ...] = ()


_MARK = object()
_MAKES_ARRAY, _ARRAY, _DTYPE = "numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"
_NAMES = (_MAKES_ARRAY, _ARRAY, _DTYPE)


def read(data: memoryview) -> dict[bytes, Any]:
    """Return the dictionary that the pickle describes; strings are bytes, arrays uint8, which share memory with `data`.

    Raises:
        MalformedPickle: it is no such pickle.
    """
    try:
        top = _Machine(data).run()
    except (struct.error, IndexError, TypeError, ValueError) as error:
        if isinstance(error, MalformedPickle):
            raise
        raise MalformedPickle(f"is no intact pickle: {error}") from error
    if type(top) is not dict:
        raise MalformedPickle("holds no dictionary")
    return {key: _array(value) if isinstance(value, _Made) else value for key, value in top.items()}


def _array(made: _Made) -> npt.NDArray[np.uint8]:
    """Return the array from the state that numpy gives one: version, shape, dtype, whether Fortran order, bytes."""
    try:
        _, shape, dtype, fortran, content = made.state
        known = made.by == _MAKES_ARRAY and dtype.by == _DTYPE and dtype.arguments[0] == b"u1" and fortran is False
        sizes = tuple(shape)
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        raise MalformedPickle("holds an array of an unknown form") from error
    if not known or not all(type(size) is int and 0 <= size < 1 << 31 for size in sizes) or len(sizes) > 4:
        raise MalformedPickle("holds an array that is not of unsigned bytes in C order")
    if not isinstance(content, bytes | memoryview) or len(content) != int(np.prod(sizes, dtype=object)):
        raise MalformedPickle(f"holds an array of shape {sizes} with another number of bytes")
    return np.frombuffer(content, np.uint8).reshape(sizes)


@dataclass(slots=True)
class _Machine:
    """The stack machine of the format; `at` is where it reads."""

    data: memoryview
    at: int = 0
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def run(self) -> Any:
        for _ in range(OPCODES_MAX):
            opcode = self._take(1)[0]
            if opcode == ord("."):
                return self.stack.pop()
            self._step(opcode)
        raise MalformedPickle(f"has more than {OPCODES_MAX} opcodes")

    def _step(self, opcode: int) -> None:
        stack = self.stack
        match chr(opcode):
            case "\x80":
                if self._number("<B") > 2:
                    raise MalformedPickle("is of a newer pickle protocol than 2")
            case "(":
                stack.append(_MARK)
            case "}":
                stack.append({})
            case "]":
                stack.append([])
            case ")":
                stack.append(())
            case "N":
                stack.append(None)
            case "\x88" | "\x89":
                stack.append(opcode == 0x88)
            case "K":
                stack.append(self._number("<B"))
            case "M":
                stack.append(self._number("<H"))
            case "J":
                stack.append(self._number("<i"))
            case "U":
                stack.append(bytes(self._take(self._number("<B"))))
            case "T":
                text = self._take(self._number("<i"))
                stack.append(text if len(text) >= LARGE_BYTES else bytes(text))
            case "c":
                stack.append(_Name(self._name()))
            case "q":
                self.memo[self._number("<B")] = stack[-1]
            case "r":
                self.memo[self._number("<I")] = stack[-1]
            case "h":
                stack.append(self._remembered(self._number("<B")))
            case "j":
                stack.append(self._remembered(self._number("<I")))
            case "\x85" | "\x86" | "\x87":
                stack.append(tuple(self._pop(opcode - 0x84)))
            case "t":
                stack.append(tuple(self._pop_to_mark()))
            case "R":
                function, arguments = self._pop(2)
                if not isinstance(function, _Name) or type(arguments) is not tuple:
                    raise MalformedPickle("calls something that is no function")
                stack.append(_Made(function.name, arguments))
            case "b":
                made, state = self._pop(2)
                if not isinstance(made, _Made) or type(state) is not tuple:
                    raise MalformedPickle("gives a state to something that takes none")
                made.state = state
                stack.append(made)
            case "a":
                self._extend(self._pop(1))
            case "e":
                self._extend(self._pop_to_mark())
            case "s":
                self._set(self._pop(2))
            case "u":
                self._set(self._pop_to_mark())
            case _:
                raise MalformedPickle(f"does something at byte {self.at - 1} that is not needed here and not done")

    def _take(self, size: int) -> memoryview:
        if not 0 <= size <= len(self.data) - self.at:
            raise MalformedPickle(f"ends too early, after {len(self.data)} bytes")
        self.at += size
        return self.data[self.at - size : self.at]

    def _number(self, form: str) -> int:
        number: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return number

    def _name(self) -> str:
        """Read a module's and a function's name, a line each."""
        longest = max(len(name) for name in _NAMES) + 1
        head = bytes(self.data[self.at : self.at + longest])
        for name in _NAMES:
            written = name.replace(" ", "\n").encode() + b"\n"
            if head.startswith(written):
                self.at += len(written)
                return name
        raise MalformedPickle(f"names {head[:40]!r}: only arrays of numpy are read, nothing is ever run")

    def _remembered(self, number: int) -> Any:
        if number not in self.memo:
            raise MalformedPickle(f"refers to {number}, which it never stored")
        return self.memo[number]

    def _pop(self, number: int) -> list[Any]:
        items = self.stack[-number:]
        if len(items) != number or any(item is _MARK for item in items):
            raise MalformedPickle("takes more than there is")
        del self.stack[-number:]
        return items

    def _pop_to_mark(self) -> list[Any]:
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                items = self.stack[place + 1 :]
                del self.stack[place:]
                return items
        raise MalformedPickle("closes what it did not open")

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise MalformedPickle("appends to something that is no list")
        self.stack[-1].extend(items)

    def _set(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict or len(items) % 2:
            raise MalformedPickle("sets an entry of something that is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not bytes:
                raise MalformedPickle("has a key that is no text")
            self.stack[-1][key] = value
