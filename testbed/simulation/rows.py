"""Rows for many devices of one process: each data set is read once, and dealt as every device would deal it itself."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skerry.tasks import data
from skerry.tasks.builtin import source
from skerry.tasks.builtin.deal import Deal
from skerry.tasks.builtin.folder import Folder
from skerry.tasks.builtin.source import DataSet
from skerry.tasks.data import Dataset
from skerry.tasks.manifest import Manifest
from skerry.tasks.partition import Owners


class Rows:
    """Keeps every data set that was read."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, Path | None, str], _Kept] = {}

    def load(
        self, spec: str, manifest: Manifest, /, *, held_out: bool = False, data_dir: Path | None = None
    ) -> Dataset:
        """See `skerry.tasks.data.load`."""
        return data.load(spec, manifest, held_out=held_out, data_dir=data_dir, open_data_set=self._open)

    def _open(self, name: str, folder: Folder, manifest: Manifest) -> DataSet:
        key = name, folder.path, manifest.name
        if key not in self._kept:
            self._kept[key] = _Kept(source.open_data_set(name, folder, manifest))
        return self._kept[key]


class _Kept:
    """A data set, all of it in memory once it was asked for."""

    def __init__(self, data_set: DataSet) -> None:
        self._data_set = data_set
        self._owners: dict[tuple[Deal, bool], Owners] = {}
        self._rows: dict[bool, tuple[npt.NDArray[Any], npt.NDArray[Any]]] = {}

    def owners(self, deal: Deal, *, held_out: bool) -> Owners:
        """See `DataSet`."""
        key = replace(deal, part=0), held_out  # every part has the same owners
        if key not in self._owners:
            self._owners[key] = self._data_set.owners(deal, held_out=held_out)
        return self._owners[key]

    def read(self, rows: npt.NDArray[np.int64], *, held_out: bool) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """See `DataSet`."""
        if held_out not in self._rows:
            everybody = self.owners(Deal(partition="iid"), held_out=held_out)
            self._rows[held_out] = self._data_set.read(np.arange(len(everybody)), held_out=held_out)
        x, y = self._rows[held_out]
        return x[rows], y[rows]
