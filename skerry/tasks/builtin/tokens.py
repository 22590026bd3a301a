"""Text as examples: a line of class numbers, cut into windows whose targets are the same line, one place further."""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skerry.errors import DataError
from skerry.tasks.builtin.folder import readable
from skerry.tasks.manifest import Manifest

UNKNOWN = "<unk>"
TEXT_BYTES_MAX = 16 << 20  # uncompressed; as single words they take fifty times as much
LINE_BYTES_MAX = 1 << 20

Tokens = npt.NDArray[Any]  # unsigned, as narrow as the number of classes allows


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Examples of next-token prediction, and whose they are."""

    tokens: Tokens  # (examples, length + 1)
    clients: npt.NDArray[np.int64]  # (examples,), numbered from 0
    client_count: int

    @classmethod
    def of_clients(cls, pieces: list[Tokens], vocabulary: "Vocabulary") -> "Windows":
        """Return the windows of all clients, of which `pieces` has one array each."""
        none = vocabulary.cut("")
        owners = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
        return cls(np.concatenate([none, *pieces]), owners, len(pieces))

    def examples(self, rows: npt.NDArray[np.int64]) -> tuple[Tokens, Tokens]:
        """Return x and y of some rows, each of shape (rows, length): y is x one place further."""
        chosen = self.tokens[rows]
        return chosen[:, :-1], chosen[:, 1:]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The classes of a task by name, and how many tokens an example has."""

    numbers: dict[str, int]
    unknown: int
    length: int

    @classmethod
    def of(cls, manifest: Manifest, data_set: str) -> "Vocabulary":
        """Return the vocabulary of a task that predicts the next token.

        Raises:
            DataError: it is another kind of task.
        """
        numbers = {name: number for number, name in enumerate(manifest.label.names)}
        if manifest.input.dtype != "int64" or UNKNOWN not in numbers or manifest.label.shape != manifest.input.shape:
            raise DataError(
                f"builtin:{data_set}: task {manifest.name!r} does not take text: its input must be int64 of the shape "
                f"of its label, and its classes the vocabulary, with {UNKNOWN} for all other words"
            )
        if len(manifest.input.shape) != 1:
            raise DataError(
                f"builtin:{data_set}: task {manifest.name!r} takes {manifest.input.shape}, text has (length,)"
            )
        return cls(numbers, numbers[UNKNOWN], manifest.input.shape[0])

    def cut(self, words: Iterable[str]) -> Tokens:
        """Return the words' classes as windows (examples, length + 1), which overlap by one.

        A text counts as its characters. Words that are not in the vocabulary become UNKNOWN; what is left at the end
        and fills no window is dropped.
        """
        get, unknown = self.numbers.get, self.unknown
        tokens = np.fromiter((get(word, unknown) for word in words), np.min_scalar_type(len(self.numbers) - 1))
        if len(tokens) <= self.length:
            return tokens[:0].reshape(0, self.length + 1)
        return np.lib.stride_tricks.sliding_window_view(tokens, self.length + 1)[:: self.length].copy()


def text_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text, which may be compressed with gzip, without their ends.

    Raises:
        DataError: not readable, not intact, not UTF-8, or too long.
    """
    with readable(path):
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                total = 0
                while line := file.readline(LINE_BYTES_MAX + 1):
                    total += len(line)
                    if len(line) > LINE_BYTES_MAX or total > TEXT_BYTES_MAX:
                        raise DataError(
                            f"{path}: a line of more than {LINE_BYTES_MAX >> 10} KiB, "
                            f"or a text of more than {TEXT_BYTES_MAX >> 20} MiB"
                        )
                    yield line.decode().rstrip("\r\n")
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{path}: is no intact gzip file: {error}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: is not UTF-8 text: {error.reason}") from error
