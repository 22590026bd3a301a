"""Parts become updates, whatever order connections come and go in; memory stays bounded."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.events import Malformed
from coordinator.intake import DESK_BYTES, PARTIAL_KEPT_S, PIECE_BYTES, Intake, IntakeFullError, bytes_max, read_vector
from skerry.protocol import sparse
from skerry.protocol.messages import ModelVersion, UpdateOffered
from skerry.protocol.parts import split
from skerry.values import ValueEncoding
from skerry.vector import SparseVector


def offers(sequence: int, payload: bytes, part_bytes: int = 100) -> list[UpdateOffered]:
    base = ModelVersion("eu/00000000", 0)
    return [UpdateOffered(sequence, base, 1, 1, 0.0, 1.0, part) for part in split(payload, part_bytes)]


@given(st.binary(max_size=400), st.integers(1, 120), st.data())
def test_an_update_survives_cuts_after_any_part(payload: bytes, part_bytes: int, data: st.DataObject) -> None:
    """A device that resumes where the coordinator says, or starts again, gets its update through once."""
    intake = Intake(1000)
    frames = offers(1, payload, part_bytes)
    delivered = []
    number = 0
    for _ in range(4 * len(frames)):
        assembled = intake.take("pi", frames[number], 10, 0.0)
        number += 1
        if assembled is not None:
            delivered.append(assembled)
            break
        if data.draw(st.booleans(), label="cut"):
            partial = intake.partial("pi")
            assert partial is not None
            assert partial.sequence == 1
            assert partial.parts >= number  # more, where the device started again
            number = partial.parts if data.draw(st.booleans(), label="resume") else 0
    if delivered:  # or cut again and again
        assert [assembled.payload for assembled in delivered] == [payload]
        assert intake.partial("pi") is None
        assert intake.held_bytes == 0


def test_what_is_held_is_counted_and_released() -> None:
    intake = Intake(1000)
    first, second, third = offers(1, bytes(250))
    assert intake.take("pi", first, 110, 0.0) is None
    assert intake.take("pi", second, 110, 0.0) is None
    assert intake.held_bytes == DESK_BYTES + 2 * (PIECE_BYTES + 100)
    assert intake.take("pi", second, 110, 0.0) is None
    assert intake.held_bytes < DESK_BYTES + 3 * (PIECE_BYTES + 100)
    assembled = intake.take("pi", third, 60, 0.0)
    assert assembled is not None
    assert (assembled.payload, assembled.frame_bytes) == (bytes(250), 390)
    assert intake.held_bytes == 0


def test_nobody_comes_back_for_an_update_after_a_while() -> None:
    intake = Intake(1000)
    intake.take("old", offers(1, bytes(250))[0], 110, 0.0)
    intake.take("new", offers(1, bytes(250))[0], 110, 10.0)
    intake.forget(PARTIAL_KEPT_S + 5.0)
    assert intake.partial("old") is None
    assert intake.partial("new") is not None
    assert intake.held_bytes == DESK_BYTES + PIECE_BYTES + 100


def test_unfinished_updates_have_a_bound_and_the_others_keep_theirs() -> None:
    intake = Intake(1000, partials_bytes_max=2 * (DESK_BYTES + PIECE_BYTES + 100))
    for device in ("a", "b"):
        assert intake.take(device, offers(1, bytes(300))[0], 110, 0.0) is None
    with pytest.raises(IntakeFullError):
        intake.take("c", offers(1, bytes(300))[0], 110, 0.0)
    assert intake.held_bytes == 2 * (DESK_BYTES + PIECE_BYTES + 100)
    assert intake.partial("c") is None
    assert intake.partial("a") is not None


def test_devices_that_send_next_to_nothing_are_bounded_too() -> None:
    """Whoever invents a name for every stream must not fill the memory with what is kept of each."""
    intake = Intake(1000, partials_bytes_max=100 * DESK_BYTES)
    first, second = offers(1, bytes(2), part_bytes=1)
    for number in range(45):
        intake.take(f"pi-{number}", first, 110, 0.0)
        intake.take(f"owl-{number}", second, 110, 0.0)  # refused, and remembered as that
    with pytest.raises(IntakeFullError):
        _ = [intake.take(f"gull-{number}", first, 110, 0.0) for number in range(20)]


def test_a_part_larger_than_the_coordinator_takes_is_no_part() -> None:
    intake = Intake(1000, part_bytes_max=50)
    for payload in (bytes(60), bytes(200)):
        assembled = intake.take("pi", offers(1, payload)[0], 110, 0.0)
        assert assembled is not None
        assert isinstance(assembled.payload, Malformed)
        assert "at most 50" in assembled.payload.detail


def test_a_gap_between_parts_is_the_devices_fault() -> None:
    intake = Intake(1000)
    parts = offers(1, bytes(250))
    intake.take("pi", parts[0], 110, 0.0)
    assembled = intake.take("pi", parts[2], 60, 0.0)
    assert assembled is not None
    assert isinstance(assembled.payload, Malformed)
    assert assembled.payload.reason == "malformed"
    assert intake.held_bytes == DESK_BYTES
    assert intake.take("pi", parts[1], 110, 0.0) is None, "it has been answered"
    assert intake.take("pi", offers(2, b"next")[0], 10, 0.0) is not None


def test_a_rejected_sequence_may_start_again() -> None:
    intake = Intake(1000)
    parts = offers(1, bytes(150))
    assert intake.take("pi", parts[1], 60, 0.0) is not None
    assert intake.take("pi", parts[0], 110, 0.0) is None
    assembled = intake.take("pi", parts[1], 60, 0.0)
    assert assembled is not None
    assert assembled.payload == bytes(150)


@pytest.mark.parametrize("size", [1, 64, 100_000])
def test_a_device_holds_no_more_memory_than_its_model_needs(size: int) -> None:
    """Even where the configuration allows more; what an encoder writes fits, in every encoding."""
    every = SparseVector(size, np.arange(size), np.ones(size, np.float32))
    largest = max(len(sparse.encode(every, encoding)) for encoding in ValueEncoding)
    assert largest <= bytes_max(size, 1 << 28) <= 2 * largest + (64 << 10)
    assert bytes_max(size, 100) == 100


@pytest.mark.parametrize("value", [3e38, -1.1e30])
def test_a_value_that_could_make_the_model_infinite_is_no_update(value: float) -> None:
    values = np.array([0.5, value], np.float32)
    read = read_vector(sparse.encode(SparseVector(9, np.array([1, 4]), values)), 9)
    assert isinstance(read, Malformed)
    assert read.reason == "not_finite"
    assert isinstance(read_vector(sparse.encode(SparseVector(9, np.array([1, 4]), values / 1e10)), 9), SparseVector)
