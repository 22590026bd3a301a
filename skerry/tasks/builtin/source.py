"""The data sets by name, as the data sources `builtin:NAME?...` read them: the part of one device, and no more."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from skerry.errors import DataError
from skerry.tasks.builtin import cifar10, mnist, shakespeare, wikitext2
from skerry.tasks.builtin.deal import Deal
from skerry.tasks.builtin.folder import Folder
from skerry.tasks.manifest import Manifest
from skerry.tasks.partition import Owners
from skerry.tasks.table import Table


class DataSet(Protocol):
    """A data set in the user's folder. Held-out examples are the test set, or what each client holds out."""

    def owners(self, deal: Deal, *, held_out: bool) -> Owners:
        """Return the owner of each example of a split.

        Raises:
            DataError: a file is missing or damaged, or the data set cannot be dealt like this.
        """

    def read(self, rows: npt.NDArray[np.int64], *, held_out: bool) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return x and y of the examples whose numbers stand in `rows`, which rise; x is kept compact.

        Raises:
            DataError: a file is missing or damaged.
        """


@dataclass(frozen=True, slots=True)
class Kind:
    """What is known of a data set before any of its files is."""

    home: str  # where its publisher offers it
    partition: str  # by default
    open: Callable[[Folder, Manifest], DataSet]


OpenDataSet = Callable[[str, Folder, Manifest], DataSet]

DATA_SETS = {
    mnist.NAME: Kind(mnist.HOME, "iid", lambda folder, _manifest: mnist.Mnist(folder)),
    cifar10.NAME: Kind(cifar10.HOME, "iid", lambda folder, _manifest: cifar10.Cifar10.open(folder)),
    wikitext2.NAME: Kind(wikitext2.HOME, "natural", wikitext2.WikiText2),
    shakespeare.NAME: Kind(shakespeare.HOME, "natural", shakespeare.Shakespeare),
}


def kind_of(name: str) -> Kind:
    """Return what is known of a data set.

    Raises:
        DataError: there is none of this name.
    """
    if name not in DATA_SETS:
        raise DataError(f"builtin:{name}: there is no such data set; there is: {', '.join(('activity', *DATA_SETS))}")
    return DATA_SETS[name]


def folder_of(name: str, path: Path | None) -> Folder:
    """Return the folder of a data set; `path` is what the user named.

    Raises:
        DataError: there is no data set of this name.
    """
    return Folder(name, kind_of(name).home, path)


def open_data_set(name: str, folder: Folder, manifest: Manifest) -> DataSet:
    """Open the data set of this name.

    Raises:
        DataError: there is none, or a file is missing or damaged.
    """
    return kind_of(name).open(folder, manifest)


def read_table(
    name: str,
    options: dict[str, str],
    manifest: Manifest,
    split: str,
    data_dir: Path | None,
    open_data_set: OpenDataSet = open_data_set,
) -> Table:
    """Read one part of a data set; takes its options out of `options`. `split` is train, test or all.

    Raises:
        DataError: there is no such data set, a file is missing or damaged, or an option is wrong.
    """
    folder, deal = _asked_for(name, options, data_dir)
    data_set = open_data_set(name, folder, manifest)
    pieces = []
    for held_out in {"train": (False,), "test": (True,), "all": (False, True)}[split]:
        rows = np.flatnonzero(data_set.owners(deal, held_out=held_out) == deal.part)
        x, y = data_set.read(rows, held_out=held_out)
        pieces.append((x, y, np.full(len(y), held_out)))
    x, y, held = (np.concatenate(arrays) if len(arrays) > 1 else arrays[0] for arrays in zip(*pieces, strict=True))
    return Table(f"builtin:{name}", x, y, held)


def check(name: str, options: dict[str, str], data_dir: Path | None) -> None:
    """See what can be seen without the task: the options, and that the folder is there.

    Raises:
        DataError: naming what is wrong, and the remedy.
    """
    folder, _ = _asked_for(name, options, data_dir)
    if folder.path is None or not folder.path.is_dir():
        raise folder.no_folder()


def _asked_for(name: str, options: dict[str, str], data_dir: Path | None) -> tuple[Folder, Deal]:
    kind = kind_of(name)
    directory = options.pop("dir", None)
    deal = Deal.parse(options, kind.partition)
    return folder_of(name, Path(directory) if directory else data_dir), deal
