"""Texts as examples: windows of tokens, whose they are, and what is said where the text is not the published one."""

import gzip
import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skerry.errors import DataError
from skerry.tasks.builtin import shakespeare, tokens, wikitext2
from skerry.tasks.builtin.deal import Deal
from skerry.tasks.builtin.folder import DataFile, Folder
from skerry.tasks.builtin.shakespeare import ALPHABET, Shakespeare
from skerry.tasks.builtin.wikitext2 import END_OF_LINE, Texts, WikiText2
from skerry.tasks.manifest import Input, Label, Manifest

TextManifest = Callable[[tuple[str, ...], int], Manifest]
Published = Callable[..., DataFile]

ARTICLE_1 = " \n = N = \n \n a b c a b c \n = = S = = \n d e f \n \n"
ARTICLE_2 = " = T <unk> = \n \n g h i j k l m n \n = 3 + 4 = \n o p \n"  # a formula between lines that are not empty
ARTICLE_3 = " \n = T = \n \n"  # too short for a window
WORDS_1 = [END_OF_LINE, *"=N=", *[END_OF_LINE] * 2, *"abcabc", END_OF_LINE, *"==S==", END_OF_LINE, *"def"]
WORDS_1 += [END_OF_LINE] * 2
WORDS_2 = [*"=T", "<unk>", "=", *[END_OF_LINE] * 2, *"ghijklmn", END_OF_LINE, *"=3+4=", END_OF_LINE, *"op"]
WORDS_2 += [END_OF_LINE] * 2
WORDS_3 = [*"=T=", *[END_OF_LINE] * 2]
VOCABULARY = ("<unk>", END_OF_LINE, "=", *"abcdefghijklmnop")


@pytest.fixture
def wikitext(tmp_path: Path, published: Published) -> tuple[Folder, Texts]:
    """A folder with a training text, plain as its authors publish it, and a test text."""
    (tmp_path / "wiki.train.tokens").write_text(ARTICLE_1 + ARTICLE_2 + ARTICLE_3)
    (tmp_path / "test.txt.gz").write_bytes(gzip.compress("".join([ARTICLE_2, " \n"] * 3).encode()))
    words = len(WORDS_1 + WORDS_2) + len(WORDS_3)
    texts = Texts(
        (published(tmp_path / "wiki.train.tokens"),), (), (published(tmp_path / "test.txt.gz"),), train_words=words
    )
    return Folder("wikitext2", "the moon", tmp_path), texts


def words_of(windows: Any) -> list[list[str]]:
    return [[VOCABULARY[number] for number in window] for window in windows]


def known(words: list[str]) -> list[str]:
    return [word if word in VOCABULARY else "<unk>" for word in words]


def test_an_article_is_cut_into_windows_whose_targets_are_one_further(
    wikitext: tuple[Folder, Texts], text_manifest: TextManifest
) -> None:
    data = WikiText2(wikitext[0], text_manifest(VOCABULARY, 5), wikitext[1])
    owners = data.owners(Deal(0, 2, "natural"), held_out=False)
    assert owners.tolist() == [0] * 4 + [1] * 4
    for part, words in ((0, known(WORDS_1)), (1, known(WORDS_2))):
        x, y = data.read(np.flatnonzero(owners == part), held_out=False)
        assert words_of(x) == [words[start : start + 5] for start in range(0, 20, 5)]
        assert words_of(y) == [words[start + 1 : start + 6] for start in range(0, 20, 5)]
        assert x.dtype == np.uint8


def test_there_are_as_many_parts_as_articles_that_fill_a_window(
    wikitext: tuple[Folder, Texts], text_manifest: TextManifest
) -> None:
    data = WikiText2(wikitext[0], text_manifest(VOCABULARY, 5), wikitext[1])
    with pytest.raises(DataError, match="parts=3: there are 2 natural clients"):
        data.owners(Deal(0, 3, "natural"), held_out=False)
    assert np.bincount(data.owners(Deal(0, 8, "iid"), held_out=False)).tolist() == [1] * 8


def test_held_out_windows_are_dealt_one_by_one(wikitext: tuple[Folder, Texts], text_manifest: TextManifest) -> None:
    data = WikiText2(wikitext[0], text_manifest(VOCABULARY, 5), wikitext[1])
    owners = data.owners(Deal(0, 2, "natural"), held_out=True)
    assert owners.tolist() == [0, 1] * (len(owners) // 2)
    assert len(owners) == 12
    x, _ = data.read(np.arange(1), held_out=True)
    assert words_of(x) == [known(WORDS_2)[:5]]


def test_the_vocabulary_is_the_most_frequent_words_and_one_for_all_others(wikitext: tuple[Folder, Texts]) -> None:
    counted = Counter(WORDS_1 + WORDS_2 + WORDS_3)
    found = wikitext2.vocabulary(wikitext[0], 6, wikitext[1])
    assert found[:3] == ("<unk>", END_OF_LINE, "=")
    assert found[3:] == ("T", "a", "b")
    assert min(counted[word] for word in found[1:]) == 2
    with pytest.raises(DataError, match="different words, wanted are 1000"):
        wikitext2.vocabulary(wikitext[0], 1000, wikitext[1])


def test_without_a_training_text_the_validation_text_is_trained_on_and_that_is_said(
    tmp_path: Path, published: Published, text_manifest: TextManifest, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "valid.txt.gz").write_bytes(gzip.compress(ARTICLE_1.encode()))
    texts = Texts((DataFile("wiki.train.tokens"),), (published(tmp_path / "valid.txt.gz"),), ())
    data = WikiText2(Folder("wikitext2", "the moon", tmp_path), text_manifest(VOCABULARY, 5), texts)
    with caplog.at_level(logging.WARNING):
        assert len(data.owners(Deal(), held_out=False)) == 4
    assert "trains on the latter; figures are not comparable" in caplog.text


def test_without_any_text_the_files_are_named(tmp_path: Path, text_manifest: TextManifest) -> None:
    data = WikiText2(Folder("wikitext2", "the moon", tmp_path), text_manifest(VOCABULARY, 5))
    with pytest.raises(
        DataError, match=r"no wiki\.train\.tokens or .*train\.txt\.gz or .*valid\.txt\.gz in .*the moon"
    ):
        data.owners(Deal(), held_out=False)
    with pytest.raises(DataError, match=r"no wiki\.test\.tokens or .*test\.txt\.gz in"):
        data.owners(Deal(), held_out=True)


def test_a_training_text_of_another_length_is_refused(
    wikitext: tuple[Folder, Texts], text_manifest: TextManifest
) -> None:
    """The raw text has more words than the tokenised one."""
    data = WikiText2(wikitext[0], text_manifest(VOCABULARY, 5), Texts(wikitext[1].train, (), ()))
    with pytest.raises(DataError, match=r"wiki\.train\.tokens: \d+ words .*has 2088628: get the tokenised text"):
        data.owners(Deal(), held_out=False)


def test_a_task_that_takes_no_text_is_refused(
    wikitext: tuple[Folder, Texts], text_manifest: TextManifest, make_manifest: Callable[..., Manifest]
) -> None:
    for manifest, said in (
        (make_manifest(), "does not take text"),
        (text_manifest(("a", "b"), 5), "does not take text"),  # no word for the others
        (
            make_manifest(
                input=Input(shape=(2, 5), dtype="int64", values_below=2),
                label=Label(classes=2, shape=(2, 5), names=("<unk>", "a")),
            ),
            "text has",
        ),
    ):
        with pytest.raises(DataError, match=said):
            WikiText2(wikitext[0], manifest, wikitext[1])


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (b"a \xff b", "text", "is not UTF-8 text"),
        (b"a" * (tokens.LINE_BYTES_MAX + 1), "text", "a line of more than"),
        (b"a\n" * 20, "text.gz", "is no intact gzip file"),
        (gzip.compress(b"a\n" * 20)[:-3], "text.gz", "is no intact gzip file"),
        (gzip.compress((b"a" * 1000 + b"\n") * (68 << 10)), "text.gz", "a text of more than 16 MiB"),
    ],
    ids=["bytes", "line", "no gzip", "cut off", "bomb"],
)
def test_a_text_that_is_none_is_refused(content: bytes, name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        list(tokens.text_lines(tmp_path / name))


def write_roles(path: Path, *roles: list[str]) -> None:
    content = {"source": "us", "roles": [{"play": "p", "role": str(n), "speeches": s} for n, s in enumerate(roles)]}
    path.write_bytes(gzip.compress(json.dumps(content).encode()))


def test_a_role_is_a_client_and_its_last_fifth_is_held_out(
    tmp_path: Path, published: Published, text_manifest: TextManifest
) -> None:
    speech = "abcdefghij" * 2
    write_roles(tmp_path / "roles.gz", [speech, speech[:19]], ["short"], [speech.upper()])
    data = Shakespeare(
        Folder("shakespeare", "the moon", tmp_path), text_manifest(ALPHABET, 6), published(tmp_path / "roles.gz")
    )
    text = f"{speech}\n{speech[:19]}"  # 40 characters, of which 32 are for training
    for held_out, owners, first, second in (
        (False, [0] * 5 + [1] * 2, text[:6], text[1:7]),
        (True, [0], text[32:38], text[33:39]),
    ):
        found = data.owners(Deal(0, 2, "natural"), held_out=held_out)
        assert found.tolist() == owners
        x, y = data.read(np.flatnonzero(found == 0), held_out=held_out)
        assert "".join(ALPHABET[number] for number in x[0]) == first
        assert "".join(ALPHABET[number] for number in y[0]) == second
    x, _ = data.read(np.array([5]), held_out=False)
    assert "".join(ALPHABET[number] for number in x[0]) == "ABCDEF"


def test_a_character_that_nobody_says_is_unknown(
    tmp_path: Path, published: Published, text_manifest: TextManifest
) -> None:
    write_roles(tmp_path / "roles.gz", ["%§a" * 10])
    manifest = text_manifest(ALPHABET, 3)
    x, _ = Shakespeare(Folder("shakespeare", "", tmp_path), manifest, published(tmp_path / "roles.gz")).read(
        np.arange(1), held_out=False
    )
    assert [ALPHABET[number] for number in x[0]] == ["<unk>", "<unk>", "a"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{}", "no intact gzip file"),
        (gzip.compress(b"{}"), "is no list of roles"),
        (gzip.compress(b'{"roles": [{"play": 1}]}'), "is no list of roles"),
        (gzip.compress(b'{"roles": [{"play": "a", "role": "b", "speeches": [1]}]}'), "is no list of roles"),
        (gzip.compress(b'{"roles": "many"}'), "is no list of roles"),
        (gzip.compress(b'{"roles": ['), "is no list of roles"),
        (gzip.compress(b" " * (65 << 20)), "more than 64 MiB"),
    ],
    ids=range(7),
)
def test_a_file_that_holds_no_roles_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "roles.gz").write_bytes(content)
    with pytest.raises(DataError, match=said):
        list(shakespeare.role_texts(tmp_path / "roles.gz"))


def test_the_real_roles_are_those_that_were_published(
    real_data: Callable[[str], Path], text_manifest: TextManifest
) -> None:
    folder = Folder("shakespeare", "", real_data("shakespeare"))
    texts = list(shakespeare.role_texts(folder.need(shakespeare.FILE)))
    assert len(texts) == 1350
    assert set("".join(texts)) == set(ALPHABET[:-1])
    data = Shakespeare(folder, text_manifest(ALPHABET, 80))
    assert len(data.owners(Deal(0, 1129, "natural"), held_out=False)) == 42_439


def test_the_real_articles_are_those_that_were_published(
    real_data: Callable[[str], Path], text_manifest: TextManifest
) -> None:
    """The authors count 217,646 and 245,569 words, ends of lines included, and 60 articles each."""
    folder = Folder("wikitext2", "", real_data("wikitext2"))
    for files, words in ((wikitext2.TEXTS.valid, 217_646), (wikitext2.TEXTS.test, 245_569)):
        texts = Texts(files, (), (), train_words=words)
        articles = list(wikitext2.training_articles(folder, texts))
        assert len(articles) == 60
        assert all(article[:2] == ["=", article[1]] or article[0] == END_OF_LINE for article in articles)
