"""When a certificate is renewed, and what happens where that fails: decided without a network, in virtual time."""

import asyncio
import itertools
import random
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from skerry import joining
from skerry.identity.authority import CLOCK_MARGIN_S, DAY_S
from skerry.identity.certificate import Identified, Subject
from skerry.identity.errors import IdentityError
from skerry.identity.key_file import CERTIFICATE, IdentityFolder
from skerry.identity.own import check_in_force, renewal_due_s
from skerry.joining import FixedCertificateError, JoinRefusedError, NotReachedError
from skerry.protocol.messages import JoinRefused
from skerry.renewal import LOOK_S, RETRY_MIN_S, keep_renewing, pause_s

ISSUED_S = 1_800_000_000.0


def certificate(issued_s: float = ISSUED_S, life_s: float = 90 * DAY_S) -> Identified:
    subject = Subject("0123456789abcdef", "agent", "pi-1")
    return Identified(subject, "ab" * 32, "1", issued_s - CLOCK_MARGIN_S, issued_s + life_s)


def test_half_of_its_life_counts_from_when_it_was_made() -> None:
    """Not from its beginning, which lies an hour back: one of a minute would be renewed all the time."""
    assert renewal_due_s(certificate(), ISSUED_S) == 45 * DAY_S
    assert renewal_due_s(certificate(life_s=60.0), ISSUED_S + 10.0) == 20.0
    assert renewal_due_s(certificate(life_s=60.0), ISSUED_S + 40.0) == -10.0


def test_it_is_looked_at_often_enough_for_a_clock_that_is_set() -> None:
    rng = random.Random(1)
    assert pause_s(certificate(), ISSUED_S, rng, failed=False) == LOOK_S
    assert pause_s(certificate(life_s=60.0), ISSUED_S + 10.0, rng, failed=False) == 20.0
    assert pause_s(certificate(life_s=60.0), ISSUED_S + 31.0, rng, failed=False) == 0.0


@pytest.mark.parametrize(("left_s", "longest_s"), [(60 * DAY_S, LOOK_S), (100.0, 5.0), (2.0, RETRY_MIN_S), (-5.0, 1.0)])
def test_what_failed_is_tried_again_many_times_before_the_end(left_s: float, longest_s: float) -> None:
    own, rng = certificate(), random.Random(2)
    pauses = [pause_s(own, own.not_after_s - left_s, rng, failed=True) for _ in range(200)]
    assert longest_s / 2 <= min(pauses) < max(pauses) <= longest_s


def test_an_expired_one_says_what_to_do() -> None:
    check_in_force(certificate(life_s=60.0), ISSUED_S + 60.0)
    with pytest.raises(IdentityError, match=r"expired 5 s ago.*join again"):
        check_in_force(certificate(life_s=60.0), ISSUED_S + 65.0)


@dataclass
class World:
    """Wall time that passes only in sleeps, and coordinators that answer as the test says."""

    own: Identified
    answers: dict[str, list[Exception | None]]
    asked: list[tuple[float, str]] = field(default_factory=list)
    now_s: float = ISSUED_S
    renews: bool = True

    async def renew(self, url: str) -> None:
        self.asked.append((self.now_s - ISSUED_S, url))
        answers = self.answers[url]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer is not None:
            raise answer

    def renewed(self) -> None:
        life_s = self.own.not_after_s - self.own.not_before_s - CLOCK_MARGIN_S
        if self.renews:
            self.own = replace(self.own, not_before_s=self.now_s - CLOCK_MARGIN_S, not_after_s=self.now_s + life_s)
        if len(self.asked) > 4:
            raise asyncio.CancelledError

    async def run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def sleep(seconds: float) -> None:
            assert seconds > 0.0
            self.now_s += seconds

        monkeypatch.setattr("skerry.renewal.asyncio.sleep", sleep)
        await keep_renewing(
            lambda: self.own,
            self.renew,
            lambda: list(self.answers),
            self.renewed,
            wall_clock=lambda: self.now_s,
            rng=random.Random(3),
        )


async def test_it_is_renewed_again_and_again_at_half_of_its_life(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(certificate(life_s=60.0), {"https://eu": [None]})
    with pytest.raises(asyncio.CancelledError):
        await world.run(monkeypatch)
    assert [at_s for at_s, _ in world.asked] == [30.0, 60.0, 90.0, 120.0, 150.0]


async def test_where_one_coordinator_cannot_another_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = JoinRefusedError(JoinRefused("no_root", "the root's key is elsewhere"))
    world = World(certificate(life_s=60.0), {"https://eu": [NotReachedError("gone")], "https://us": [refused, None]})
    with pytest.raises(asyncio.CancelledError):
        await world.run(monkeypatch)
    assert [url for _, url in world.asked[:4]] == ["https://eu", "https://us"] * 2
    assert world.asked[1][0] == 30.0
    assert 30.0 < world.asked[2][0] < 33.0


async def test_a_revoked_one_ends_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(certificate(life_s=60.0), {"https://eu": [JoinRefusedError(JoinRefused("revoked", "shut out"))]})
    with pytest.raises(IdentityError, match="shut out"):
        await world.run(monkeypatch)
    assert len(world.asked) == 1


@pytest.mark.parametrize("other", [None, NotReachedError("gone")])
async def test_one_coordinator_alone_ends_nobody_by_saying_that_it_was_revoked(
    monkeypatch: pytest.MonkeyPatch, other: Exception | None
) -> None:
    refused = JoinRefusedError(JoinRefused("revoked", "shut out"))
    world = World(certificate(life_s=60.0), {"https://eu": [refused], "https://us": [other, None]})
    with pytest.raises(asyncio.CancelledError):
        await world.run(monkeypatch)


async def test_a_new_one_that_is_due_at_once_is_no_reason_to_hurry(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Method: the clock is ahead by more than half of a certificate's life, so that no certificate looks new."""
    world = World(certificate(), {"https://eu": [None]}, now_s=ISSUED_S + 50 * DAY_S, renews=False)
    with pytest.raises(asyncio.CancelledError):
        await world.run(monkeypatch)
    times = [at_s for at_s, _ in world.asked]
    assert all(LOOK_S / 2 <= after - before <= LOOK_S for before, after in itertools.pairwise(times))
    assert "is this machine's clock right?" in caplog.text


async def test_a_credential_is_never_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is renewed would lie in the state, and the credential go before it for ever."""
    folder = IdentityFolder(tmp_path / "state", tmp_path / "credentials")
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / CERTIFICATE).touch()
    with pytest.raises(FixedCertificateError, match="replace it where it comes from") as caught:
        await joining.renew("https://localhost:1", folder, wall_clock=lambda: ISSUED_S)
    world = World(certificate(life_s=60.0), {"https://eu": [caught.value]})
    with pytest.raises(IdentityError, match="expired"):
        await world.run(monkeypatch)
    assert 60.0 < world.now_s - ISSUED_S <= 61.0


async def test_one_that_nobody_renews_is_used_to_its_end_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(certificate(life_s=60.0), {"https://eu": [NotReachedError("gone")]})
    with pytest.raises(IdentityError, match="expired"):
        await world.run(monkeypatch)
    assert len(world.asked) > 20
    assert 60.0 < world.now_s - ISSUED_S <= 61.0
