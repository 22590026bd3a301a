"""CIFAR-10: 50,000 + 10,000 colour images of ten things, 32 x 32; from the original batches, or from JPEG images.

Source: Krizhevsky, "Learning multiple layers of features from tiny images", technical report, Toronto 2009.

The batches have the images in another order than the JPEG archive, so all devices of a federation must read the same
format: else two of them could hold the same image.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from skerry.errors import DataError
from skerry.tasks.builtin import array_pickle, jpeg_archive
from skerry.tasks.builtin.deal import Deal
from skerry.tasks.builtin.folder import DataFile, Folder, readable
from skerry.tasks.partition import Owners

NAME = "cifar10"
HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN, SCALE = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)  # of the training images' bytes, per colour
SIDE = 32
PIXELS = 3 * SIDE * SIDE
PYTHON, BINARY = "cifar-10-batches-py", "cifar-10-batches-bin"  # what the original archives unpack to

Labels = npt.NDArray[np.int64]
Images = npt.NDArray[np.uint8]


class Format(Protocol):
    """One way in which the images come."""

    def labels(self, *, held_out: bool) -> Labels:
        """Return the classes of all images of a split."""

    def read(self, rows: Labels, *, held_out: bool) -> tuple[Images, Labels]:
        """Return images, uint8 of shape (rows, 3072), and their classes; `rows` rise."""


@dataclass(frozen=True, slots=True)
class PythonBatches:
    """The "python version": pickles, read without running them."""

    folder: Folder
    train: tuple[DataFile, ...] = (
        DataFile(f"{PYTHON}/data_batch_1", "md5:c99cafc152244af753f735de768cd75f"),
        DataFile(f"{PYTHON}/data_batch_2", "md5:d4bba439e000b95fd0a9bffe97cbabec"),
        DataFile(f"{PYTHON}/data_batch_3", "md5:54ebc095f3ab1f0389bbae665268c751"),
        DataFile(f"{PYTHON}/data_batch_4", "md5:634d18415352ddfa80567beed471001a"),
        DataFile(f"{PYTHON}/data_batch_5", "md5:482c414d41f54cd18b22e5b47cb7c3cb"),
    )
    test: tuple[DataFile, ...] = (DataFile(f"{PYTHON}/test_batch", "md5:40351d587109b95175f43aff81a1287e"),)

    def labels(self, *, held_out: bool) -> Labels:
        """Return the classes of all images of a split."""
        return np.concatenate([self._batch(file)[1] for file in (self.test if held_out else self.train)])

    def read(self, rows: Labels, *, held_out: bool) -> tuple[Images, Labels]:
        """Return images, uint8 of shape (rows, 3072), and their classes; `rows` rise."""
        return _gathered((self._batch(file) for file in (self.test if held_out else self.train)), rows)

    def _batch(self, file: DataFile) -> tuple[Images, Labels]:
        """Return images, uint8 of shape (examples, 3072), which stay in the file, and their classes."""
        path = self.folder.need(file)
        try:
            with readable(path):
                batch = array_pickle.read(np.memmap(path, np.uint8, "r").data)
            numbers = batch[b"labels"]
            if type(numbers) is not list or not all(type(number) is int for number in numbers):
                raise array_pickle.MalformedPickle("its labels are no list of numbers")  # but lists in lists, say
            labels = np.array(numbers, np.int64)
            images = np.asarray(batch[b"data"])
        except (array_pickle.MalformedPickle, KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{path}: is no batch of CIFAR-10: {error}") from error
        if images.shape != (len(labels), PIXELS) or labels.ndim != 1:
            raise DataError(f"{path}: images of shape {images.shape} for labels of shape {labels.shape}")
        return images, labels


@dataclass(frozen=True, slots=True)
class BinaryBatches:
    """The "binary version": a byte of class, then the image's bytes. No checksums of these files were published."""

    folder: Folder
    train: tuple[DataFile, ...] = tuple(DataFile(f"{BINARY}/data_batch_{number}.bin") for number in range(1, 6))
    test: tuple[DataFile, ...] = (DataFile(f"{BINARY}/test_batch.bin"),)
    examples: int = 10_000  # of a batch

    def labels(self, *, held_out: bool) -> Labels:
        """Return the classes of all images of a split."""
        return np.concatenate([self._batch(file)[1] for file in (self.test if held_out else self.train)])

    def read(self, rows: Labels, *, held_out: bool) -> tuple[Images, Labels]:
        """Return images, uint8 of shape (rows, 3072), and their classes; `rows` rise."""
        return _gathered((self._batch(file) for file in (self.test if held_out else self.train)), rows)

    def _batch(self, file: DataFile) -> tuple[Images, Labels]:
        """Return images, uint8 of shape (examples, 3072), which stay in the file, and their classes."""
        path = self.folder.need(file)
        with readable(path):
            size, wanted = path.stat().st_size, self.examples * (1 + PIXELS)
            if size != wanted:
                raise DataError(f"{path}: {size} bytes, {file.name} has {wanted}: get it from {self.folder.home}")
            content = np.memmap(path, np.uint8, "r", shape=(self.examples, 1 + PIXELS))
        return content[:, 1:], content[:, 0].astype(np.int64)


@dataclass(frozen=True, slots=True)
class JpegArchive:
    """All images as JPEG of quality 75, sorted by class: smaller by ten times, and lossy. Needs Pillow."""

    folder: Folder
    file: DataFile

    def labels(self, *, held_out: bool) -> Labels:
        """Return the classes of all images of a split."""
        return jpeg_archive.read_labels(self.folder.need(self.file), held_out=held_out)

    def read(self, rows: Labels, *, held_out: bool) -> tuple[Images, Labels]:
        """Return images, uint8 of shape (rows, 3072), and their classes; `rows` rise."""
        labels = self.labels(held_out=held_out)[rows]
        return jpeg_archive.read_images(self.folder.need(self.file), rows, SIDE, held_out=held_out), labels


JPEG = DataFile("cifar10_jpeg.npz", "sha256:545f1a73979d764891b285d26a6242708e800d88d5515ac894190e1b5f4b28e2")


@dataclass(frozen=True, slots=True)
class Cifar10:
    """A `skerry.tasks.builtin.source.DataSet`."""

    format: Format

    @classmethod
    def open(cls, folder: Folder) -> "Cifar10":
        """Choose the format: the original batches before the lossy images.

        Raises:
            DataError: no format is there; says where to get one.
        """
        python, binary = PythonBatches(folder), BinaryBatches(folder)
        if folder.find(*python.train, *python.test):
            return cls(python)
        if folder.find(*binary.train, *binary.test):
            return cls(binary)
        if folder.find(JPEG):
            return cls(JpegArchive(folder, JPEG))
        raise folder.missing(python.train[0], binary.train[0], JPEG)

    def owners(self, deal: Deal, *, held_out: bool) -> Owners:
        """Deal the images."""
        train = self.format.labels(held_out=False)
        return deal.by_class(train, self.format.labels(held_out=True) if held_out else train)

    def read(self, rows: npt.NDArray[np.int64], *, held_out: bool) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return images, uint8 of shape (rows, 3, 32, 32), and their classes."""
        images, labels = self.format.read(rows, held_out=held_out)
        return images.reshape(-1, 3, SIDE, SIDE), labels


def _gathered(batches: Iterator[tuple[Images, Labels]], rows: Labels) -> tuple[Images, Labels]:
    """Return the images and classes of `rows`, counted through all batches, of which one at a time is open."""
    images, labels = np.empty((len(rows), PIXELS), np.uint8), np.empty(len(rows), np.int64)
    start = 0
    for batch_images, batch_labels in batches:
        first, last = np.searchsorted(rows, (start, start + len(batch_labels)))
        images[first:last] = batch_images[rows[first:last] - start]
        labels[first:last] = batch_labels[rows[first:last] - start]
        start += len(batch_labels)
    return images, labels
