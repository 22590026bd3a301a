import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skerry.errors import DataError
from skerry.tasks import manifest as manifest_module
from skerry.tasks.bundle import Bundle, pack, resolve
from skerry.tasks.manifest import MalformedBundle, Manifest, PartName


def test_a_bundle_opens_with_its_parts_and_parameters(bundle_file: Path, manifest: Manifest) -> None:
    bundle = Bundle.open(bundle_file)
    assert bundle.manifest == manifest
    assert bundle.part("step.onnx") == b"step"
    np.testing.assert_array_equal(bundle.initial_parameters(), np.arange(8, dtype=np.float32))
    assert bundle.sha256 == hashlib.sha256(bundle_file.read_bytes()).hexdigest()
    assert bundle.file_bytes == bundle_file.stat().st_size


def test_the_same_contents_make_the_same_file(manifest: Manifest, parts: dict[PartName, bytes]) -> None:
    """The coordinator names a bundle by its hash: it must not depend on time, platform or order."""
    file = pack(manifest, parts)
    assert pack(manifest, dict(reversed(parts.items()))) == file
    assert hashlib.sha256(file).hexdigest() == "5f9dcf5fc57fcdf601efb2c626fd88cf5efd146fc865513882d99e844c241851"


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_noticed_or_harmless(bundle_file: Path, manifest: Manifest, data: st.DataObject) -> None:
    """Whatever a disk or a peer does to the file: it opens with the very same contents, or is refused."""
    intact = bundle_file.read_bytes()
    place = data.draw(st.integers(0, len(intact) - 1))
    changed = bytearray(intact)
    changed[place] ^= data.draw(st.integers(1, 255))
    path = bundle_file.with_name("changed.skerry")
    path.write_bytes(bytes(changed))
    try:
        bundle = Bundle.open(path)
    except MalformedBundle:
        return
    assert bundle.sha256 != Bundle.open(bundle_file).sha256
    assert {name: bundle.part(name) for name in PartName} == {
        name: Bundle.open(bundle_file).part(name) for name in PartName
    }
    assert bundle.manifest.parts == manifest.parts


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_refused_by_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "any.skerry"
    path.write_bytes(data)
    with pytest.raises(MalformedBundle, match=r"any\.skerry: "):
        Bundle.open(path)


def rewritten(file: bytes, *, compression: int = zipfile.ZIP_STORED, extra: str | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(file)) as source, zipfile.ZipFile(buffer, "w", compression) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        if extra:
            target.writestr(extra, b"print()")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda file: rewritten(file, extra="setup.py"), "must hold exactly"),
        (lambda file: rewritten(file, extra="step.onnx"), "must hold exactly"),
        (lambda file: rewritten(file, compression=zipfile.ZIP_DEFLATED), "stored"),
        (lambda file: file[:-30], "is no bundle"),
    ],
    ids=["foreign entry", "doubled entry", "compressed", "truncated"],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_what_is_not_exactly_a_bundle_is_refused(
    bundle_file: Path, change: Callable[[bytes], bytes], reason: str
) -> None:
    bundle_file.write_bytes(change(bundle_file.read_bytes()))
    with pytest.raises(MalformedBundle, match=reason):
        Bundle.open(bundle_file)


def test_parameters_of_another_layout_are_refused(
    tmp_path: Path, make_manifest: Callable[..., Manifest], parts: dict[PartName, bytes]
) -> None:
    foreign = parts | {PartName.PARAMETERS: b"no tensors"}
    manifest = make_manifest(parts={name: hashlib.sha256(data).hexdigest() for name, data in foreign.items()})
    path = tmp_path / "foreign.skerry"
    path.write_bytes(pack(manifest, foreign))
    with pytest.raises(MalformedBundle, match=r"parameters\.safetensors"):
        Bundle.open(path)


def test_a_part_that_changed_after_opening_is_noticed(
    bundle_file: Path, make_manifest: Callable[..., Manifest], parts: dict[PartName, bytes]
) -> None:
    bundle = Bundle.open(bundle_file)
    other = parts | {PartName.STEP: b"other"}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in other.items()}
    bundle_file.write_bytes(pack(make_manifest(parts=hashes), other))
    with pytest.raises(MalformedBundle, match="does not match its hash"):
        bundle.part(PartName.STEP)


def test_entries_that_would_stand_before_the_file_are_refused(bundle_file: Path) -> None:
    """The end of a zip says where its directory begins; a place too late moves all entries towards the front."""
    content = bytearray(bundle_file.read_bytes())
    content[-6] ^= 128
    bundle_file.write_bytes(bytes(content))
    with pytest.raises(MalformedBundle):
        Bundle.open(bundle_file)


def test_a_manifest_too_large_is_not_read(bundle_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skerry.tasks.bundle.MANIFEST_BYTES_MAX", 10)
    with pytest.raises(MalformedBundle, match="at most 10"):
        Bundle.open(bundle_file)


def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.skerry: cannot be read: No such file"):
        resolve(str(tmp_path / "none.skerry"))
    with pytest.raises(DataError, match="no built-in task 'chess'; there is: activity"):
        resolve("builtin:chess")


def test_the_built_in_task_resolves_by_name() -> None:
    bundle = resolve("builtin:activity")
    assert bundle.manifest.name == "activity"
    assert bundle.file_bytes < 300_000
    assert manifest_module.decode(manifest_module.encode(bundle.manifest), "") == bundle.manifest
