"""MNIST: 60,000 + 10,000 grey images of handwritten digits, 28 x 28, from the four original idx files.

Source: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", Proceedings of the
IEEE 86(11), 1998.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from skerry.tasks.builtin import idx
from skerry.tasks.builtin.deal import Deal
from skerry.tasks.builtin.folder import DataFile, Folder
from skerry.tasks.partition import Owners

NAME = "mnist"
HOME = "https://ossci-datasets.s3.amazonaws.com/mnist/"
CLASSES = tuple("0123456789")
MEAN, SCALE = 33.3184, 78.5675  # of the training images' bytes


@dataclass(frozen=True, slots=True)
class Files:
    """Images and labels of one split."""

    images: DataFile
    labels: DataFile


TRAIN = Files(
    DataFile("train-images-idx3-ubyte.gz", "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
    DataFile("train-labels-idx1-ubyte.gz", "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
)
TEST = Files(
    DataFile("t10k-images-idx3-ubyte.gz", "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
    DataFile("t10k-labels-idx1-ubyte.gz", "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
)


@dataclass(frozen=True, slots=True)
class Mnist:
    """A `skerry.tasks.builtin.source.DataSet`."""

    folder: Folder
    train: Files = TRAIN
    test: Files = TEST

    def owners(self, deal: Deal, *, held_out: bool) -> Owners:
        """Deal the digits."""
        train = self._labels(held_out=False)
        return deal.by_class(train, self._labels(held_out=True) if held_out else train)

    def read(self, rows: npt.NDArray[np.int64], *, held_out: bool) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return images, uint8 of shape (rows, 1, 28, 28), and their digits."""
        images = idx.read_images(self.folder.need(self._files(held_out=held_out).images), rows)
        return images[:, np.newaxis], self._labels(held_out=held_out)[rows]

    def _labels(self, *, held_out: bool) -> npt.NDArray[np.int64]:
        return idx.read_labels(self.folder.need(self._files(held_out=held_out).labels))

    def _files(self, *, held_out: bool) -> Files:
        return self.test if held_out else self.train
