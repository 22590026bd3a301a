"""What a device's owner may write as a data source, and what they are told when it does not fit."""

import io
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skerry.errors import DataError
from skerry.tasks.data import load
from skerry.tasks.manifest import Input, Label, Manifest, Normalisation
from skerry.tasks.table import check_features_shape

X = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.float32)
Y = np.array([0, 1, 1])


@pytest.fixture
def named(make_manifest: Callable[..., Manifest]) -> Manifest:
    """A task whose features and classes have names, and that takes missing values."""
    features = Input(shape=(3,), missing_as=0.0, names=("a", "b", "c"))
    return make_manifest(input=features, label=Label(classes=2, names=("rest", "walk")))


@pytest.fixture
def npz(tmp_path: Path) -> Callable[..., str]:
    def write(**arrays: Any) -> str:
        np.savez(tmp_path / "data.npz", **arrays)
        return f"npz:{tmp_path / 'data.npz'}"

    return write


@pytest.fixture
def csv(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        (tmp_path / "data.csv").write_text(text)
        return f"csv:{tmp_path / 'data.csv'}"

    return write


@pytest.fixture
def module() -> Iterator[ModuleType]:
    made = ModuleType("sensors")
    sys.modules["sensors"] = made
    yield made
    del sys.modules["sensors"]


# --- what all sources share ---


@pytest.mark.parametrize("source", ["", "npz", "npz:", "ftp:data.npz", "/data/x.npz", "python"])
def test_an_unknown_kind_of_source_is_explained(manifest: Manifest, source: str) -> None:
    with pytest.raises(DataError, match=r"must be npz:FILE, csv:FILE, python:MODULE:FUNCTION or builtin:TASK"):
        load(source, manifest)


def test_an_unknown_option_is_named(manifest: Manifest, npz: Callable[..., str]) -> None:
    source = npz(x=X, y=Y)
    with pytest.raises(DataError, match="unknown option label"):
        load(f"{source}?label=b", manifest)
    with pytest.raises(DataError, match=r"options must read \?key=value"):
        load(f"{source}?split", manifest)
    with pytest.raises(DataError, match="split=most is none of train, test, all"):
        load(f"{source}?split=most", manifest)


def test_examples_come_normalised_in_the_types_of_the_graphs(
    make_manifest: Callable[..., Manifest], npz: Callable[..., str]
) -> None:
    manifest = make_manifest(input=Input(shape=(3,), normalisation=Normalisation((1.0,), (2.0,))))
    dataset = load(npz(x=X.astype(np.float64), y=Y.astype(np.uint8)), manifest)
    np.testing.assert_array_equal(dataset.x, (X - 1) / 2)
    np.testing.assert_array_equal(dataset.y, Y)
    assert dataset.x.dtype == np.float32
    assert dataset.y.dtype == np.int64


def test_a_source_without_a_split_gives_all_rows_either_way(manifest: Manifest, npz: Callable[..., str]) -> None:
    source = npz(x=X, y=Y)
    assert len(load(source, manifest)) == len(load(source, manifest, held_out=True)) == 3


def test_held_out_rows_never_train(manifest: Manifest, npz: Callable[..., str]) -> None:
    source = npz(x=X, y=Y, split=[0, 1, 0])
    assert load(source, manifest).x[:, 0].tolist() == [1, 7]
    assert load(source, manifest, held_out=True).x[:, 0].tolist() == [4]
    assert len(load(f"{source}?split=all", manifest)) == 3
    assert len(load(f"{source}?split=test", manifest)) == 1
    assert len(load(f"{source}?split=train", manifest, held_out=True)) == 2
    with pytest.raises(DataError, match="no rows with split=test"):
        load(npz(x=X, y=Y, split=[0, 0, 0]), manifest, held_out=True)
    with pytest.raises(DataError, match="split must have one value per row"):
        load(npz(x=X, y=Y, split=[0, 2, 0]), manifest)


# --- npz ---


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"x": X}, "holds no array y"),
        (
            {"x": X[:, :2], "y": Y},
            r"x has shape \(3, 2\), task 'tiny' takes \(examples, 3\): its examples have 2 values, the task's 3",
        ),
        ({"x": X[0], "y": Y}, r"x has shape \(3,\), .*: one example by itself goes into a list of one$"),
        ({"x": X[:, None], "y": Y}, r"x has shape \(3, 1, 3\), .*: reshape it to \(3, 3\)$"),
        ({"x": np.float32(1), "y": Y}, r"x has shape \(\), .*: its examples have 1 value, the task's 3 values$"),
        ({"x": X, "y": Y[:2]}, "3 rows in x, 2 in y"),
        ({"x": X, "y": X[:, 0]}, "y has dtype float32, must be integers"),
        ({"x": X, "y": Y[:, None]}, r"y has shape \(3, 1\)"),
        ({"x": X, "y": Y + 1}, r"row 1 \(counted from 0\), label: class 2, task 'tiny' has 0 to 1"),
        ({"x": X, "y": Y - 1}, r"row 0 .*class -1"),
        ({"x": X.astype(complex), "y": Y}, "x has dtype complex128"),
        ({"x": np.where(X == 6, np.nan, X), "y": Y}, r"row 1 \(counted from 0\), column 2: nan, must be a finite"),
        ({"x": np.where(X == 7, np.inf, X), "y": Y}, r"row 2 .*, column 0: inf"),
        ({"x": X.astype(np.float64) * 1e39, "y": Y}, r"row 0 .*, column 0: inf"),
        ({"x": X.astype(object), "y": Y}, "holds Python objects, which are never loaded"),
        ({"x": X[:0], "y": Y[:0]}, "no rows with split=train"),
    ],
)
def test_arrays_that_do_not_fit_are_named(
    manifest: Manifest, npz: Callable[..., str], arrays: dict[str, Any], reason: str
) -> None:
    with pytest.raises(DataError, match=reason):
        load(npz(**arrays), manifest)


def test_a_missing_value_is_taken_where_the_task_takes_them(named: Manifest, npz: Callable[..., str]) -> None:
    assert load(npz(x=np.where(X == 6, np.nan, X), y=Y), named).x[1].tolist() == [4, 5, 0]
    with pytest.raises(DataError, match=r"row 2 .*, column 'a': inf, must be .* NaN where it is missing"):
        load(npz(x=np.where(X == 7, np.inf, X), y=Y), named)


@pytest.mark.parametrize(
    ("given", "wanted", "hint"),
    [
        (
            (900, 25, 4),
            (4, 25),
            "transpose it, with numpy x.transpose(0, 2, 1); a reshape would scramble",
        ),
        ((9, 32, 32, 3), (3, 32, 32), "transpose it, with numpy x.transpose(0, 3, 1, 2);"),
        ((9, 3, 32, 32), (32, 32, 3), "transpose it, with numpy x.transpose(0, 2, 3, 1);"),
        ((9, 28, 28, 1), (1, 28, 28), "transpose it, with numpy x.transpose(0, 3, 1, 2);"),
        ((9, 100), (4, 25), "reshape it to (9, 4, 25)"),
        ((9, 4, 25), (100,), "reshape it to (9, 100)"),
        ((9, 28, 28), (1, 28, 28), "reshape it to (9, 1, 28, 28)"),
        ((9, 4, 5, 5), (4, 25), "reshape it to (9, 4, 25)"),
        ((9,), (1,), "reshape it to (9, 1)"),
        ((9, 25, 4), (10, 10), "its examples have 25 x 4 values, the task's 10 x 10 values"),
        ((9, 25, 2, 2), (4, 25), "its examples have 25 x 2 x 2 values, the task's 4 x 25 values"),
        ((9, 4, 30), (4, 25), "its examples have 4 x 30 values, the task's 4 x 25 values"),
    ],
)
def test_a_reshape_is_advised_only_where_it_keeps_every_value_in_its_place(
    given: tuple[int, ...], wanted: tuple[int, ...], hint: str
) -> None:
    with pytest.raises(DataError) as error:
        check_features_shape("a.npz", given, Input(shape=wanted))
    assert f": {hint}" in str(error.value)


@pytest.mark.parametrize("kind", ["npz", "csv"])
def test_a_missing_file_is_named(manifest: Manifest, tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match=rf"gone\.{kind}: no such file"):
        load(f"{kind}:{tmp_path}/gone.{kind}", manifest)
    with pytest.raises(DataError, match="no such file"):
        load(f"{kind}:{tmp_path}", manifest)


def test_an_array_that_claims_to_be_huge_is_refused_unread(manifest: Manifest, tmp_path: Path) -> None:
    """A few hundred bytes that state 12 TB: numpy would try to allocate them."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**12, 3)})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
        archive.writestr("y.npy", header.getvalue())
    with pytest.raises(DataError, match="1000000000000 rows are more than 4096 MiB"):
        load(f"npz:{tmp_path / 'bomb.npz'}", manifest)


def test_labels_that_claim_to_be_huge_are_refused_unread(
    make_manifest: Callable[..., Manifest], tmp_path: Path
) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 20, 10_000)})
    np.savez(tmp_path / "bomb.npz", x=np.zeros((1, 3)))
    with zipfile.ZipFile(tmp_path / "bomb.npz", "a") as archive:
        archive.writestr("y.npy", header.getvalue())
    with pytest.raises(DataError, match="labels of 1048576 rows are more than 4096 MiB"):
        load(f"npz:{tmp_path / 'bomb.npz'}", make_manifest(label=Label(classes=2, shape=(10_000,))))


def test_an_array_whose_header_may_be_huge_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    array = io.BytesIO()
    np.lib.format.write_array(array, X, version=(2, 0))
    np.savez(tmp_path / "a.npz", y=Y)
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("x.npy", array.getvalue())
    with pytest.raises(DataError, match=r"array x is of format \(2, 0\), must be \(1, 0\)"):
        load(f"npz:{tmp_path / 'a.npz'}", manifest)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.integers(0, 10**6), mask=st.integers(1, 255), cut=st.integers(0, 10**6))
def test_a_damaged_file_never_raises_anything_else(
    manifest: Manifest, npz: Callable[..., str], place: int, mask: int, cut: int
) -> None:
    source = npz(x=X, y=Y)
    path = Path(source.removeprefix("npz:"))
    damaged = bytearray(path.read_bytes())
    damaged[place % len(damaged)] ^= mask
    path.write_bytes(damaged[: max(1, len(damaged) - cut % 40)] if cut % 2 else damaged)
    try:
        assert len(load(source, manifest)) <= 3
    except DataError as error:
        assert "data.npz" in str(error)  # noqa: PT017 - either way is right


# --- csv ---


def test_columns_are_found_by_name_in_any_order(named: Manifest, csv: Callable[[str], str]) -> None:
    dataset = load(csv("label,c,when,b,a\nwalk,3,monday,2,1\n0,6,tuesday,5,4\n"), named)
    np.testing.assert_array_equal(dataset.x, X[:2])
    assert dataset.y.tolist() == [1, 0]


def test_without_names_the_order_counts_and_the_last_column_is_the_class(
    manifest: Manifest, csv: Callable[[str], str]
) -> None:
    text = "p,q,r,s\n1,2,3,0\n\n4, 5 ,6,1\n"
    dataset = load(csv(text), manifest)
    np.testing.assert_array_equal(dataset.x, X[:2])
    assert dataset.y.tolist() == [0, 1]
    with pytest.raises(DataError, match="line 2, column 'q': class 2"):
        load(f"{csv(text)}?label=q", manifest)


@pytest.mark.parametrize(
    ("header", "option", "column"),
    [
        ("a,b,c,class,when", "?label=class", "class"),
        ("a,b,c,label,when", "", "label"),
        ("label,a,b,c,class", "?label=class", "class"),
        ("class,a,b,c,split", "", "class"),
    ],
)
def test_the_column_of_the_label_is_told(
    named: Manifest, csv: Callable[[str], str], header: str, option: str, column: str
) -> None:
    row = ",".join("train" if name == "split" else "1" for name in header.split(","))
    dataset = load(csv(f"{header}\n{row}\n") + option, named)
    assert (dataset.label_column, dataset.y.tolist()) == (column, [1])


@pytest.mark.parametrize(
    ("header", "option", "reason"),
    [
        ("a,b,c", "", "every column is a feature, none the label: name its column with csv:FILE?label=COLUMN"),
        ("a,b,c,split", "", "every column is a feature, none the label"),
        ("a,b,c,class,when", "", "class, when may each be the label: name its column with csv:FILE?label=COLUMN"),
        ("a,b,c,label", "?label=c", "column 'c' is a feature of the task, so it cannot be the label: name its column"),
        ("a,b,c,split", "?label=split", "column 'split' is what says which rows are held out, so it cannot be"),
    ],
)
def test_a_label_is_never_taken_from_a_feature_nor_guessed(
    named: Manifest, csv: Callable[[str], str], header: str, option: str, reason: str
) -> None:
    row = ",".join(["1"] * len(header.split(",")))
    with pytest.raises(DataError) as error:
        load(csv(f"{header}\n{row}\n") + option, named)
    assert f"data.csv: {reason}" in str(error.value)


def test_a_task_whose_feature_is_called_label_takes_no_other_for_it(
    make_manifest: Callable[..., Manifest], csv: Callable[[str], str]
) -> None:
    manifest = make_manifest(input=Input(shape=(3,), names=("a", "b", "label")))
    source = csv("a,b,label,class\n1,2,3,1\n")
    with pytest.raises(DataError, match="column 'label' is a feature of the task"):
        load(source, manifest)
    assert load(f"{source}?label=class", manifest).label_column == "class"


def test_a_split_column_holds_rows_out(manifest: Manifest, csv: Callable[[str], str]) -> None:
    source = csv("p,q,r,s,split\n1,2,3,0,train\n4,5,6,1,test\n")
    assert load(source, manifest).y.tolist() == [0]
    assert load(source, manifest, held_out=True).y.tolist() == [1]


@pytest.mark.parametrize("cell", ["", " ", "?", "NaN", "na"])
def test_empty_cells_are_missing_values(
    manifest: Manifest, named: Manifest, csv: Callable[[str], str], cell: str
) -> None:
    source = csv(f"a,b,c,label\n1,2,3,0\n4,{cell},6,1\n")
    assert load(source, named).x[1].tolist() == [4, 0, 6]
    with pytest.raises(DataError, match=r"data\.csv: line 3, column 'b': .* is a missing value"):
        load(source, manifest)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "line 1: must be a header"),
        ("a,b,c,label\n", "no row behind the header"),
        ("a;b;c;label\n1;2;3;0\n", "line 1: its columns stand between semicolons, must stand between commas"),
        ("a\tb\tc\tlabel\n", "line 1: its columns stand between tabs, must stand between commas"),
        ("a,b,b,label\n1,2,3,0\n", "line 1: must be a header of at least two different column names"),
        ("a,b,label\n1,2,0\n", r"no column c: task 'tiny' finds its features by name"),
        ("a,b,c,label\n1,2,3,0\n4,x,6,1\n", r"line 3, column 'b': 'x' is no number"),
        ("a,b,c,label\n1,2,3\n", r"line 2: 3 cells, the header has 4"),
        (
            "a,b,c,label\n1,2,3,run\n",
            r"line 2, column 'label': 'run' is no class: give its number or one of rest, walk",
        ),
        ("a,b,c,label\n1,2,3,1\n1,2,3,9\n", r"line 3, column 'label': class 9"),
        ("a,b,c,label\n1,2,3,99999999999999999999999\n", r"line 2, column 'label': class 9+"),
        ("a,b,c,label\n1,2,1e39,1\n", r"line 2, column 'c': inf"),
        ("a,b,c,label,split\n1,2,3,1,maybe\n", r"line 2, column 'split': 'maybe' is neither train nor test"),
        ('a,b,c,label\n1,2,3,"1\n', "line 2: unexpected end of data"),
        ("a,b,c,label\n1,2,3,1\n\0", "line 3: "),
    ],
)
def test_a_cell_that_does_not_fit_is_found_by_line_and_column(
    named: Manifest, csv: Callable[[str], str], text: str, reason: str
) -> None:
    with pytest.raises(DataError, match=rf"data\.csv: {reason}"):
        load(csv(text), named)


def test_a_csv_file_has_limits(named: Manifest, csv: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    source = csv("a,b,c,label\n1,2,3,0\n4,5,6,1\n")
    with monkeypatch.context() as patch:
        patch.setattr("skerry.tasks.csv_file.LINE_CHARACTERS_MAX", 12)
        assert len(load(source, named)) == 2  # the header has 12 with its end
        patch.setattr("skerry.tasks.csv_file.LINE_CHARACTERS_MAX", 11)
        with pytest.raises(DataError, match="a line of more than 11 characters"):
            load(source, named)
    monkeypatch.setattr("skerry.tasks.csv_file.TABLE_BYTES_MAX", 16)
    with pytest.raises(DataError, match="of features: keep fewer rows"):
        load(source, named)
    monkeypatch.setattr("skerry.tasks.csv_file.CSV_BYTES_MAX", 10)
    with pytest.raises(DataError, match="use npz"):
        load(source, named)


def test_a_csv_file_of_another_encoding_is_refused(named: Manifest, tmp_path: Path) -> None:
    (tmp_path / "latin.csv").write_bytes("a,b,c,größe\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.csv: is not UTF-8 text: .* at byte 8"):
        load(f"csv:{tmp_path / 'latin.csv'}", named)


def test_images_do_not_come_as_csv(make_manifest: Callable[..., Manifest], csv: Callable[[str], str]) -> None:
    with pytest.raises(DataError, match="use npz"):
        load(csv("a,label\n1,0\n"), make_manifest(input=Input(shape=(1, 3))))


# --- python ---


def test_a_function_of_the_device_gives_the_rows(manifest: Manifest, module: ModuleType) -> None:
    module.read = lambda: (X.tolist(), Y, [False, True, False])  # type: ignore[attr-defined]
    assert load("python:sensors:read", manifest).x[:, 0].tolist() == [1, 7]
    assert load("python:sensors:read", manifest, held_out=True).y.tolist() == [1]


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        (X, r"returned ndarray, must return \(x, y\) or \(x, y, split\)"),
        ((X,), "must return"),
        (([[1, 2, 3], [4]], Y), "are no arrays"),
        ((X, Y + 5), r"python:sensors:read: row 0 .*class 5"),
        ((X, ["walk", "rest", "run"]), "y has dtype <U4"),
    ],
)
def test_what_a_function_returns_is_checked(
    manifest: Manifest, module: ModuleType, returned: object, reason: str
) -> None:
    module.read = lambda: returned  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=reason):
        load("python:sensors:read", manifest)


def test_a_function_that_fails_or_is_not_there_is_named(manifest: Manifest, module: ModuleType) -> None:
    def fails() -> None:
        raise RuntimeError("no sensor on bus 1")

    module.fails = fails  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"python:sensors:fails: RuntimeError: no sensor on bus 1"):
        load("python:sensors:fails", manifest)
    with pytest.raises(DataError, match=r"python:sensors:gone: AttributeError"):
        load("python:sensors:gone", manifest)
    with pytest.raises(DataError, match="install the module where the agent's Python finds it"):
        load("python:no_such_module:read", manifest)


# --- built in ---


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("builtin:chess", "there is: activity, mnist, cifar10, wikitext2, shakespeare"),
        ("builtin:activity?part=6&parts=6", "part 0 to parts - 1"),
        ("builtin:activity?parts=37", "parts must be 1 to 36"),
        ("builtin:activity?parts=0", "parts must be 1 to 36"),
        ("builtin:activity?part=-1&parts=6", "part=-1: must be a whole number"),
        ("builtin:activity?partition=1&of=6", "unknown option of, partition"),
    ],
)
def test_a_built_in_source_is_checked(manifest: Manifest, source: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        load(source, manifest)


def tokens(make_manifest: Callable[..., Manifest]) -> Manifest:
    return make_manifest(input=Input(shape=(3,), dtype="int64", values_below=5), label=Label(classes=5, shape=(3,)))


def test_tokens_stay_as_small_as_they_are_stored(tmp_path: Path, make_manifest: Callable[..., Manifest]) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([[0, 1, 4]], np.uint8), y=np.array([[1, -100, 4]], np.int16))
    dataset = load(f"npz:{tmp_path / 'a.npz'}", tokens(make_manifest))
    assert dataset.x.dtype == np.uint8
    x, y = dataset.rows(slice(0, 1))
    assert x.dtype == y.dtype == np.int64
    assert (x.tolist(), y.tolist()) == ([[0, 1, 4]], [[1, -100, 4]])


def test_images_stay_bytes_and_are_prepared_row_by_row(tmp_path: Path, make_manifest: Callable[..., Manifest]) -> None:
    manifest = make_manifest(input=Input(shape=(3,), normalisation=Normalisation((100.0,), (2.0,))))
    np.savez(tmp_path / "a.npz", x=np.array([[100, 102, 98], [0, 255, 100]], np.uint8), y=np.array([0, 1]))
    dataset = load(f"npz:{tmp_path / 'a.npz'}", manifest)
    assert dataset.x.dtype == np.uint8
    assert dataset.rows(np.array([0]))[0].tolist() == [[0.0, 1.0, -1.0]]
    assert dataset.rows(slice(0, 2))[0].dtype == np.float32


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": [[0, 1, 5]], "y": [[0, 1, 2]]}, r"row 0 .*, column 2: 5, must be an integer in \[0, 5\)"),
        ({"x": [[0, -1, 4]], "y": [[0, 1, 2]]}, r"column 1: -1, must be an integer in \[0, 5\)"),
        ({"x": [[0, 1, 4]], "y": [[0, 1, -1]]}, r"label 2: class -1, task 'tiny' has 0 to 4"),
        ({"x": [[0.5, 1, 4]], "y": [[0, 1, 2]]}, "x has dtype float64, must be an integer type"),
        ({"x": [[0, 1, 4]], "y": [0]}, r"y has shape \(1,\), must be \(examples, 3\)"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(
    tmp_path: Path, make_manifest: Callable[..., Manifest], arrays: dict[str, Any], message: str
) -> None:
    np.savez(tmp_path / "a.npz", x=np.array(arrays["x"]), y=np.array(arrays["y"]))
    with pytest.raises(DataError, match=message):
        load(f"npz:{tmp_path / 'a.npz'}", tokens(make_manifest))


def test_values_beyond_float32_are_refused_as_infinite(
    csv: Callable[..., str], npz: Callable[..., str], make_manifest: Callable[..., Manifest]
) -> None:
    manifest = make_manifest(label=Label(loss="mse", shape=(1,)))
    for source in (csv("a,b,c,label\n1,2,3,1e39\n"), npz(x=X[:1], y=np.array([[1e39]]))):
        with pytest.raises(DataError, match="inf, must be a finite float32"):
            load(source, manifest)


@pytest.mark.parametrize(("loss", "value"), [("mse", "inf"), ("bce_with_logits", "1.5"), ("bce_with_logits", "nan")])
def test_values_to_predict_are_checked(
    tmp_path: Path, make_manifest: Callable[..., Manifest], loss: str, value: str
) -> None:
    manifest = make_manifest(label=Label(loss=loss, shape=(1,)))  # type: ignore[arg-type]
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 3)), y=np.array([[0.5], [float(value)]]))
    with pytest.raises(DataError, match=rf"row 1 .*, label 0: {value}, must be"):
        load(f"npz:{tmp_path / 'a.npz'}", manifest)


def test_csv_gives_values_to_predict(csv: Callable[..., str], make_manifest: Callable[..., Manifest]) -> None:
    manifest = make_manifest(label=Label(loss="mse", shape=(1,)))
    dataset = load(csv("a,b,c,label\n1,2,3,-0.5\n4,5,6,7e2\n"), manifest)
    assert dataset.y.dtype == np.float32
    assert dataset.y.tolist() == [[-0.5], [700.0]]
