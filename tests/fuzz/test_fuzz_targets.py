"""A minute of `make fuzz`, and that it finds what is planted.

Half of it begins from a seed that stays, half from a fresh one; a failure names the input and how to replay it.
"""

import random
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from tests.fuzz.fuzzing import MEMORY_BYTES, Defect, answer, fuzz
from tests.fuzz.targets import Target, targets

ROUNDS = 25  # of each of the two; with the tests of `test_fuzz_protocol.py` about a minute of one processor


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "seed", [1, random.SystemRandom().getrandbits(32)], ids=["the seed that stays", "a fresh seed"]
)
def test_what_strangers_send_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    """In a process of its own, which gets no more memory than it may take."""
    ran = run("--rounds", str(ROUNDS), "--seed", str(seed), "--out", str(tmp_path))
    assert ran.returncode == 0, f"{ran.stdout}{ran.stderr}"
    assert f"seed {seed}, " in ran.stdout


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=Path(__file__).parents[2])


class Planted(Exception):  # noqa: N818
    """The error that the planted target may end in."""


def planted(read: object, **fields: int) -> dict[str, Target]:
    assert callable(read)
    return {"planted": Target(read, Planted, (b"skerry: a=1;b=22;",), **fields)}


def found(read: object, batches: int = 5) -> Defect:
    """Return what is found within so many batches."""
    running = fuzz(planted(read), random.Random(5))
    with pytest.raises(Defect) as defect:
        list(islice(running, batches))
    return defect.value


def test_another_error_is_found_behind_a_check_behind_a_check() -> None:
    def read(data: bytes) -> None:
        parts = data.count(b";")
        if not data.startswith(b"skerry") or parts < 2:
            raise Planted("no skerry")
        if parts in {3, 4}:
            raise Planted("three parts" if parts == 3 else "four parts")
        if parts == 5 and b"\xff" in data:
            raise IndexError("planted")

    defect = found(read, batches=60)
    assert "IndexError: planted" in str(defect)
    assert defect.data.startswith(b"skerry")


def test_memory_out_of_proportion_is_found() -> None:
    defect = found(lambda data: bytearray(2 * MEMORY_BYTES) if b"[[" in data else None, batches=40)
    assert "bytes of memory for" in str(defect)


def test_time_out_of_proportion_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.fuzzing.PROCESSOR_S", 0.0)
    assert "s for 17 bytes of input" in str(found(lambda data: sorted(data * 1000)))


def test_an_invariant_that_does_not_hold_is_found() -> None:
    def read(data: bytes) -> None:
        assert b"\x00" not in data, "planted"

    assert "AssertionError: planted" in str(found(read))


def test_a_target_of_which_nothing_can_be_read_is_no_target() -> None:
    def read(_: bytes) -> None:
        raise Planted("nothing")

    with pytest.raises(AssertionError, match="none of the inputs to begin from can be read"):
        next(fuzz(planted(read), random.Random(1)))


def test_a_seed_gives_the_same_inputs_again() -> None:
    def inputs() -> list[bytes]:
        seen: list[bytes] = []
        next(fuzz(planted(seen.append, cost=10), random.Random(9)))
        return seen

    assert inputs() == inputs()
    assert len(set(inputs())) > 50


def test_an_input_that_was_kept_is_replayed(tmp_path: Path) -> None:
    kept = tmp_path / "join-token.0123456789ab"
    kept.write_bytes(b"skerry1-!")
    replayed = run("--replay", str(kept))
    assert replayed.returncode == 0, replayed.stderr
    assert "the join token is damaged" in replayed.stdout


def test_every_target_reads_what_it_begins_from(tmp_path: Path) -> None:
    for name, target in targets(tmp_path).items():
        assert "read" in [answer(name, target, data, traced=False) for data in target.begin], name
