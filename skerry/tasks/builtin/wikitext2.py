"""WikiText-2: two million words of good articles of Wikipedia; an article is a natural client.

Source: Merity, Xiong, Bradbury and Socher, "Pointer sentinel mixture models", 2016 (arXiv:1609.07843).

Where the training text is not there, the validation text is trained on and a warning says so: figures are then not
comparable with those of papers. What is held out is always the test text, whose articles are nobody's.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from skerry.errors import DataError
from skerry.tasks.builtin.deal import Deal
from skerry.tasks.builtin.folder import DataFile, Folder
from skerry.tasks.builtin.tokens import UNKNOWN, Tokens, Vocabulary, Windows, text_lines
from skerry.tasks.manifest import Manifest
from skerry.tasks.partition import Owners

NAME = "wikitext2"
HOME = "https://huggingface.co/datasets/Salesforce/wikitext (wikitext-2-v1)"
END_OF_LINE = "<eos>"
VALID_TOKENS = "sha256:f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8"
TEST_TOKENS = "sha256:d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0"

_TITLE = re.compile(r"= [^=](.*[^=])? =")  # a section's has two signs of equality on each side, or more

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Texts:
    """The files of each text, in each form in which they come; the first that is there is read."""

    train: tuple[DataFile, ...] = (
        DataFile("wiki.train.tokens"),
        DataFile("wikitext-2/wiki.train.tokens"),
        DataFile("train.txt.gz"),
    )
    valid: tuple[DataFile, ...] = (
        DataFile("wiki.valid.tokens", VALID_TOKENS),
        DataFile("wikitext-2/wiki.valid.tokens", VALID_TOKENS),
        DataFile("valid.txt.gz", "sha256:a92a2da4418be833a842d30edb1711a363eaa9194c4b4e4d0953daf9af231e8f"),
    )
    test: tuple[DataFile, ...] = (
        DataFile("wiki.test.tokens", TEST_TOKENS),
        DataFile("wikitext-2/wiki.test.tokens", TEST_TOKENS),
        DataFile("test.txt.gz", "sha256:a7f70ace9020b0d6daf21ea9f7666bc824aae4e8a3d5d7a1bd7820b2110da32d"),
    )
    train_words: int = 2_088_628  # ends of lines included, as the authors count; no checksum of the file is known


TEXTS = Texts()


class WikiText2:
    """A `skerry.tasks.builtin.source.DataSet`."""

    def __init__(self, folder: Folder, manifest: Manifest, texts: Texts = TEXTS) -> None:
        self._folder = folder
        self._vocabulary = Vocabulary.of(manifest, NAME)
        self._texts = texts

    def owners(self, deal: Deal, *, held_out: bool) -> Owners:
        """Deal articles or windows."""
        windows = self._held_out if held_out else self._training
        return deal.by_client(windows.clients, windows.client_count)

    def read(self, rows: npt.NDArray[np.int64], *, held_out: bool) -> tuple[Tokens, Tokens]:
        """Return windows and the same windows one word further."""
        return (self._held_out if held_out else self._training).examples(rows)

    @cached_property
    def _training(self) -> Windows:
        """The windows of the articles; one that is too short for a window is no client."""
        pieces = (self._vocabulary.cut(article) for article in training_articles(self._folder, self._texts))
        return Windows.of_clients([piece for piece in pieces if len(piece)], self._vocabulary)

    @cached_property
    def _held_out(self) -> Windows:
        """The windows of the test text, each dealt on its own."""
        articles = _articles(text_lines(_needed(self._folder, self._texts.test)))
        windows = Windows.of_clients([self._vocabulary.cut(article) for article in articles], self._vocabulary)
        return Windows(windows.tokens, np.arange(len(windows.tokens)), len(windows.tokens))


def vocabulary(folder: Folder, size: int, texts: Texts = TEXTS) -> tuple[str, ...]:
    """Return UNKNOWN and the most frequent words of the training text, `size` in all, the most frequent first.

    Raises:
        DataError: the text is missing or damaged, or has fewer words.
    """
    counted = Counter(chain.from_iterable(training_articles(folder, texts)))
    counted[UNKNOWN] = sum(counted.values())  # never cut off
    if len(counted) < size:
        raise DataError(f"data set {NAME}: its training text has {len(counted)} different words, wanted are {size}")
    return tuple(sorted(counted, key=lambda word: (-counted[word], word))[:size])


def training_articles(folder: Folder, texts: Texts = TEXTS) -> Iterator[list[str]]:
    """Yield the words of each article to train on, an END_OF_LINE behind each line.

    Raises:
        DataError: missing, damaged, or not the text that was published.
    """
    train, valid = folder.find(*texts.train), folder.find(*texts.valid)
    if train is None and valid is None:
        raise folder.missing(*texts.train, *texts.valid)
    if train is None:
        log.warning(
            "%s: no training text beside the validation text: trains on the latter; "
            "figures are not comparable with those of papers",
            NAME,
        )
        yield from _articles(text_lines(_needed(folder, texts.valid)))
        return
    total = 0
    for article in _articles(text_lines(_needed(folder, texts.train))):
        total += len(article)
        yield article
    if total != texts.train_words:
        raise DataError(
            f"{train}: {total} words and ends of lines, the training text of WikiText-2 has {texts.train_words}: "
            f"get the tokenised text, not the raw one, from {folder.home}"
        )


def _needed(folder: Folder, files: tuple[DataFile, ...]) -> Path:
    for file in files:
        if folder.find(file) is not None:
            return folder.need(file)
    raise folder.missing(*files)


def _articles(lines: Iterable[str]) -> Iterator[list[str]]:
    """Split at titles, which stand alone between two empty lines; formulas that look like one do not."""
    words: list[str] = []
    begun = False
    previous = ""
    for current, following in pairwise(chain(lines, ("",))):
        if _TITLE.fullmatch(current.strip()) and not previous.strip() and not following.strip():
            if begun:
                yield words
                words = []
            begun = True
        words += (*current.split(), END_OF_LINE)
        previous = current
    yield words
