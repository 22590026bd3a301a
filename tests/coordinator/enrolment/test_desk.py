import asyncio
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.enrolment import desk as desks
from coordinator.enrolment import founding
from coordinator.enrolment.records import PartyRow, Revocation
from coordinator.enrolment.registry import Refusal
from skerry.errors import ConfigError, StorageError
from skerry.identity import certificate, key_file, request
from skerry.identity.authority import Authority, make_key
from skerry.identity.certificate import Identified, Subject, identify
from skerry.identity.join_token import JoinToken
from skerry.identity.key_file import IdentityFolder
from skerry.protocol import frames
from skerry.protocol.messages import Joined, JoinRequested, RenewalRequested
from tests.coordinator.enrolment.conftest import COORDINATORS, FEDERATION, Bench, OpenBench, found, in_place


def asked(token: JoinToken, key: ec.EllipticCurvePrivateKey, name: str | None = "pi", **fields: Any) -> JoinRequested:
    return JoinRequested(
        token.identifier, token.secret, **{"role": "agent", "name": name, "request": request.make(key), **fields}
    )


async def join(bench: Bench, *arguments: Any, **fields: Any) -> Joined:
    return frames.decode(await bench.desk.join(asked(*arguments, **fields)), Joined, bytes_max=1 << 20)


def shown(bench: Bench, joined: Joined) -> Identified:
    return identify(joined.certificates[0], bench.folder.certificates("root.pem")[0])


async def test_a_device_gets_a_certificate_that_counts(bench: Bench) -> None:
    key = make_key()
    joined = await join(bench, await bench.token(), key)
    party = shown(bench, joined)
    assert party.subject.uri == f"skerry://{FEDERATION}/agent/pi"
    assert party.key_sha256 == certificate.key_sha256(key.public_key())
    assert (joined.name, joined.region, joined.coordinators) == ("pi", "eu", COORDINATORS)
    assert [certificate.parse(one) for one in joined.certificates[1:]] == bench.folder.certificates("issuer.pem")
    (row,) = [one for one in bench.desk.registry.parties() if one.role == "agent"]
    assert (row.serial, row.expires_at_s) == (party.serial, party.not_after_s)


async def test_a_lost_answer_is_given_again_even_after_a_restart(bench: Bench, open_bench: OpenBench) -> None:
    key, token = make_key(), await bench.token()
    first = await bench.desk.join(asked(token, key))
    assert await bench.desk.join(asked(token, key)) == first
    bench.desk.close()
    restarted = await open_bench()
    assert await restarted.desk.join(asked(token, key)) == first
    with pytest.raises(Refusal, match="used up"):
        await restarted.desk.join(asked(token, make_key(), "other"))


async def test_a_device_that_was_away_for_too_long_joins_again_with_its_key(bench: Bench) -> None:
    """It needs a new join token, and gets a new certificate, of which a lost answer is given again."""
    key, first = make_key(), await bench.token()
    before = await bench.desk.join(asked(first, key))
    bench.now_s[0] += 44 * 86400
    assert await bench.desk.join(asked(first, key)) == before
    bench.now_s[0] += 56 * 86400
    with pytest.raises(Refusal, match="used up"):
        await bench.desk.join(asked(first, key))
    second = await bench.token(2)
    after = await bench.desk.join(asked(second, key))
    party = shown(bench, frames.decode(after, Joined, bytes_max=1 << 20))
    assert party.not_after_s == pytest.approx(bench.now_s[0] + 90 * 86400, abs=2)
    assert await bench.desk.join(asked(second, key)) == after


async def test_two_that_come_at_once_share_a_sync_and_not_a_use(bench: Bench) -> None:
    token = await bench.token()
    keys = [make_key() for _ in range(4)]
    answers = await asyncio.gather(
        *(bench.desk.join(asked(token, keys[number % 2], f"pi-{number % 2}")) for number in range(4)),
        return_exceptions=True,
    )
    assert answers[0] == answers[2]
    assert isinstance(answers[1], Refusal)
    assert isinstance(answers[3], Refusal)
    assert isinstance(answers[0], bytes)


async def test_nobody_is_answered_before_it_is_on_disk(open_bench: OpenBench) -> None:
    """Method: the disk thread stands still; what was asked is neither answered nor lost when it goes on."""
    may_write = asyncio.Event()
    may_write.set()

    async def slow(function: Callable[[], Any]) -> Any:
        await may_write.wait()
        return function()

    bench = await open_bench(run_in_thread=slow)
    token = await bench.token()
    may_write.clear()
    joining = asyncio.create_task(bench.desk.join(asked(token, make_key())))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not joining.done()
    may_write.set()
    assert await joining


async def test_a_disk_that_refuses_ends_the_desk_and_answers_nobody(open_bench: OpenBench) -> None:
    refuses = False

    async def failing(function: Callable[[], Any]) -> Any:
        if refuses:
            raise StorageError("full")
        return function()

    bench = await open_bench(run_in_thread=failing)
    token = await bench.token()
    refuses = True
    running = asyncio.create_task(bench.desk.run())
    joining = asyncio.create_task(bench.desk.join(asked(token, make_key())))
    done, _ = await asyncio.wait({joining}, timeout=10)
    assert done
    assert joining.cancelled()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_renewal_keeps_name_and_key_and_moves_the_end(bench: Bench) -> None:
    key = make_key()
    before = shown(bench, await join(bench, await bench.token(), key))
    bench.now_s[0] += 45 * 86400
    renewal = RenewalRequested(request.make(key))
    after = shown(bench, frames.decode(await bench.desk.renew(before, renewal), Joined, bytes_max=1 << 20))
    assert (after.subject, after.key_sha256) == (before.subject, before.key_sha256)
    assert after.not_after_s == pytest.approx(before.not_after_s + 45 * 86400, abs=2)
    (row,) = [one for one in bench.desk.registry.parties() if one.role == "agent"]
    assert row.serial == after.serial != before.serial


async def test_a_coordinator_gets_a_server_certificate_and_an_issuer(bench: Bench) -> None:
    key, issuer_key = make_key(), make_key()
    token = await bench.token(role="coordinator", region="us")
    joined = await join(
        bench,
        token,
        key,
        "us-1",
        role="coordinator",
        issuer_request=request.make(issuer_key),
        addresses=("us.example.org",),
    )
    assert shown(bench, joined).subject.role == "coordinator"
    assert (joined.region, len(joined.certificates), joined.coordinators) == ("us", 1, {})
    assert joined.issuer is not None
    issuer = certificate.parse(joined.issuer)
    issuer.verify_directly_issued_by(bench.folder.certificates("root.pem")[0])
    assert issuer.public_key() == issuer_key.public_key()
    device = Subject(FEDERATION, "agent", "pi")
    signed = Authority(issuer, issuer_key).issue(device, make_key().public_key(), bench.now_s[0])
    party = identify(certificate.der_of(signed), bench.desk.authorities.root_certificate)
    assert bench.desk.registry.refusal(party) is None
    await bench.desk.revoke("coordinator", "us-1", None)
    assert "'us-1', which signed" in str(bench.desk.registry.refusal(party))


async def test_a_coordinator_renews_for_the_addresses_that_it_has_and_for_no_others(bench: Bench) -> None:
    key, issuer_key, own = make_key(), make_key(), ("us.example.org", "10.0.0.7")
    token = await bench.token(role="coordinator")
    requested = {"issuer_request": request.make(issuer_key), "addresses": own}
    before = shown(bench, await join(bench, token, key, "us-1", role="coordinator", **requested))
    assert before.addresses == own
    renewal = RenewalRequested(request.make(key), request.make(issuer_key), ("localhost", *own))
    after = shown(bench, frames.decode(await bench.desk.renew(before, renewal), Joined, bytes_max=1 << 20))
    assert after.serial != before.serial
    assert after.addresses == own


async def wish(bench: Bench, number: int, name: str, *addresses: str, **wanted: object) -> Identified:
    """Join as a coordinator that asks for `addresses`."""
    token, issuer = await bench.token(number, role="coordinator", **wanted), request.make(make_key())
    fields = {"role": "coordinator", "issuer_request": issuer, "addresses": addresses}
    return shown(bench, await join(bench, token, make_key(), name, **fields))


async def test_no_coordinator_gets_an_address_that_another_one_has(bench: Bench, open_bench: OpenBench) -> None:
    """It could stand in for that one: also after a restart, and however the address is written."""
    await wish(bench, 1, "us-1", "us.example.org", "2001:db8::7", "192.0.2.7", "localhost")
    bench.desk.close()
    bench = await open_bench()
    for number, one in enumerate(("US.example.org", "2001:DB8:0::7", "::ffff:192.0.2.7", "eu-1.example.org"), 2):
        with pytest.raises(Refusal, match="in the certificate of coordinator") as caught:
            await wish(bench, number, "asia-1", "asia.example.org", one)
        assert caught.value.reason == "name_taken"
    assert [one.used for one in bench.desk.registry.tokens()].count(0) == 4
    asia = await wish(bench, 6, "asia-1", "asia.example.org", "localhost", "127.0.0.1")
    assert asia.addresses == ("asia.example.org", "localhost", "127.0.0.1")


async def test_an_address_is_free_again_when_its_coordinator_was_revoked(bench: Bench) -> None:
    await wish(bench, 1, "us-1", "us.example.org")
    await bench.desk.revoke("coordinator", "us-1", None)
    assert (await wish(bench, 2, "us-2", "us.example.org")).addresses == ("us.example.org",)


async def test_a_coordinator_that_was_renewed_here_holds_the_addresses_of_its_certificate(bench: Bench) -> None:
    """Another coordinator may have held the root's key when it joined."""
    key = make_key()
    subject = Subject(FEDERATION, "coordinator", "us-1")
    certificates = bench.desk.authorities.sign(subject, key.public_key(), bench.now_s[0], ["us.example.org"])
    before = identify(certificate.der_of(certificates[0]), bench.desk.authorities.root_certificate)
    await bench.desk.renew(before, RenewalRequested(request.make(key), request.make(make_key())))
    with pytest.raises(Refusal, match="'us-1'"):
        await wish(bench, 1, "us-2", "us.example.org")


async def test_a_join_token_can_say_at_which_addresses_its_coordinator_serves(bench: Bench) -> None:
    pinned = {"addresses": ("us.example.org", "10.0.0.7")}
    us = await wish(bench, 1, "us-1", "bank.example.org", "localhost", "us.example.org", **pinned)
    assert us.addresses == ("us.example.org", "10.0.0.7", "localhost")
    with pytest.raises(Refusal, match=r"'10\.0\.0\.7' is in the certificate of coordinator 'us-1'"):
        await wish(bench, 2, "us-2", addresses=("10.0.0.7",))
    for wrong in ({"role": "agent"}, {"uses": 2}, {"addresses": ("https://x",)}):
        with pytest.raises(Refusal) as caught:
            await bench.token(3, **({"role": "coordinator"} | pinned | wrong))
        assert caught.value.reason == "malformed"


async def test_what_is_malformed_is_refused_and_takes_no_use(bench: Bench) -> None:
    token = await bench.token()
    for fields in ({"request": b"\x30\x00"}, {"issuer_request": b""}, {"addresses": ("https://x",)}):
        with pytest.raises(Refusal) as caught:
            await bench.desk.join(asked(token, make_key(), **fields))
        assert caught.value.reason == "malformed"
    assert bench.desk.registry.tokens()[0].used == 0


async def test_a_bad_secret_is_refused_before_anything_is_read(bench: Bench) -> None:
    """A flood of them must cost little: no signature is looked at."""
    token = await bench.token()
    wrong = JoinToken(token.root_sha256, token.identifier, bytes(16))
    with pytest.raises(Refusal, match="knows no such join token"):
        await bench.desk.join(asked(wrong, make_key(), request=b"garbage"))


async def test_too_many_at_once_are_told_to_come_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    token = await bench.token(uses=10)
    monkeypatch.setattr(desks, "WAITING_MAX", 3)
    answers = await asyncio.gather(
        *(bench.desk.join(asked(token, make_key(), f"pi-{number}")) for number in range(5)), return_exceptions=True
    )
    assert [isinstance(one, Refusal) and one.reason == "busy" for one in answers] == [False] * 3 + [True] * 2


async def test_one_device_cannot_take_all_places_with_renewals(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor with the same join again and again. Others are renewed meanwhile, and it itself after a while."""
    key, other = make_key(), make_key()
    greedy = shown(bench, await join(bench, await bench.token(), key))
    modest = shown(bench, await join(bench, await bench.token(2), other, "pi-2"))
    renewals = [bench.desk.renew(greedy, RenewalRequested(request.make(key))) for _ in range(20)]
    answers = await asyncio.gather(*renewals, return_exceptions=True)
    assert [isinstance(one, Refusal) and one.reason == "busy" for one in answers] == [False] * 4 + [True] * 16
    assert await bench.desk.renew(modest, RenewalRequested(request.make(other)))
    with pytest.raises(Refusal, match="several times in a row"):
        await join(bench, await bench.token(3), key)
    bench.now_s[0] += 1.0
    assert await bench.desk.renew(greedy, RenewalRequested(request.make(key)))


async def test_more_than_one_group_are_all_answered(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desks, "GROUP_MAX", 2)
    token = await bench.token(uses=5)
    async with asyncio.timeout(20):
        await asyncio.gather(*(bench.desk.join(asked(token, make_key(), f"pi-{number}")) for number in range(5)))
    assert bench.desk.registry.tokens()[0].used == 5


async def test_a_coordinator_whose_issuer_has_expired_signs_nothing(bench: Bench) -> None:
    token = await bench.token()
    bench.now_s[0] += 366 * 86400
    with pytest.raises(Refusal, match="have expired"):
        await bench.desk.join(asked(token, make_key()))


async def test_a_revocation_outlives_a_restart_and_ends_what_is_under_way(bench: Bench, open_bench: OpenBench) -> None:
    party = shown(bench, await join(bench, await bench.token(), make_key()))
    assert bench.desk.registry.refusal(party) is None
    revoked = await bench.desk.revoke("agent", "pi", None)
    assert revoked == [Revocation("agent", "pi", party.key_sha256)]
    assert bench.ended == [None]
    bench.desk.close()
    restarted = await open_bench()
    assert restarted.desk.registry.refusal(party) == "the certificate of agent 'pi' was revoked"
    assert restarted.desk.registry.digest == bench.desk.registry.digest


async def test_a_second_wish_to_revoke_is_not_answered_before_the_first_is_on_disk(open_bench: OpenBench) -> None:
    may_write = asyncio.Event()
    may_write.set()

    async def slow(function: Callable[[], Any]) -> Any:
        await may_write.wait()
        return function()

    bench = await open_bench(run_in_thread=slow)
    await join(bench, await bench.token(), make_key())
    may_write.clear()
    wishes = [asyncio.create_task(bench.desk.revoke("agent", "pi", None)) for _ in range(2)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert not any(one.done() for one in wishes)
    may_write.set()
    assert [len(one) for one in await asyncio.gather(*wishes)] == [1, 0]


async def test_who_loses_a_name_to_an_earlier_key_at_a_peer_is_ended(bench: Bench) -> None:
    late = shown(bench, await join(bench, await bench.token(), make_key()))
    (own,) = [one for one in bench.desk.registry.parties() if one.role == "agent"]
    await bench.desk.learn_parties([own._replace(name="other", key="a" * 64)], "us-1")
    assert bench.ended == []
    await bench.desk.learn_parties([own._replace(key="b" * 64, enrolled_at_s=own.enrolled_at_s - 1)], "us-1")
    assert bench.ended == [None]
    assert "belongs to another key" in str(bench.desk.registry.refusal(late))


async def test_since_when_a_device_is_enrolled_is_kept_and_with_it_its_answer(
    bench: Bench, open_bench: OpenBench
) -> None:
    key, token = make_key(), await bench.token()
    answer = await bench.desk.join(asked(token, key))
    (own,) = [one for one in bench.desk.registry.parties() if one.role == "agent"]
    await bench.desk.learn_parties([own._replace(enrolled_at_s=7.0, title="told", region="us")], "us-1")
    bench.desk.close()
    restarted = await open_bench()
    kept = [one for one in restarted.desk.registry.parties() if one.role == "agent"]
    assert kept == [own._replace(enrolled_at_s=7.0)]
    assert await restarted.desk.join(asked(token, key)) == answer


async def test_a_peer_that_shuts_out_many_devices_is_believed_a_few(bench: Bench) -> None:
    """By revocations as by claims; what is believed is done."""
    rows = [PartyRow("agent", f"n{number}", f"{number:064x}", "eu", "n", "", 9.0, 0.0, "") for number in range(20)]
    await bench.desk.learn_parties(rows, "us-1")
    assert await bench.desk.learn([Revocation("agent", one.name, one.key) for one in rows], "us-1") == 16
    assert [bench.desk.registry.is_revoked("agent", one.name, one.key) for one in rows] == [True] * 4 + [False] * 16
    assert len(bench.ended) == 1
    claims = [one._replace(key="f" * 64, enrolled_at_s=1.0) for one in rows[4:]]
    assert await bench.desk.learn_parties(claims, "ap-1") == 12
    assert [bench.desk.registry.is_contested("agent", one.name) for one in rows] == [False] * 4 + [True] * 4 + [
        False
    ] * 12
    assert len(bench.ended) == 2
    bench.now_s[0] += 86400.0
    assert await bench.desk.learn([Revocation("agent", one.name, one.key) for one in rows[4:]], "us-1") == 12


async def test_what_was_known_before_is_neither_written_nor_ends_anything(bench: Bench) -> None:
    one = Revocation("agent", "far", "a" * 64)
    for _ in range(2):
        assert await bench.desk.learn([one], "us-1") == 0
        assert bench.desk.registry.is_revoked(*one)
        assert bench.ended == [None]


async def test_a_title_and_a_revoked_join_token_outlive_a_restart(bench: Bench, open_bench: OpenBench) -> None:
    token = await bench.token()
    await join(bench, token, make_key())
    await bench.desk.rename("agent", "pi", "Kitchen")
    await bench.desk.revoke_token(token.identifier.hex())
    bench.desk.close()
    registry = (await open_bench()).desk.registry
    assert [one.title for one in registry.parties() if one.role == "agent"] == ["Kitchen"]
    assert [one.state(0.0) for one in registry.tokens()] == ["revoked"]


async def test_whom_init_made_can_be_listed_and_revoked(bench: Bench) -> None:
    assert [(one.role, one.name) for one in bench.desk.registry.parties()] == [
        ("admin", "admin"),
        ("coordinator", "eu-1"),
    ]
    assert len(await bench.desk.revoke("admin", "admin", None)) == 1


def test_a_federation_is_never_made_over_another(tmp_path: Path) -> None:
    folder = IdentityFolder(tmp_path / "identity")
    found(folder, "eu-1")
    before = {path: path.read_bytes() for path in folder.path.rglob("*.pem")}
    with pytest.raises(ConfigError, match="holds an identity already"):
        found(folder, "eu-1")
    assert {path: path.read_bytes() for path in folder.path.rglob("*.pem")} == before


def test_an_init_that_was_killed_can_be_run_again(tmp_path: Path) -> None:
    folder = IdentityFolder(tmp_path / "identity")
    found(folder, "eu-1")
    (folder.path / key_file.CERTIFICATE).unlink()
    made = found(folder, "eu-1")
    assert folder.certificates("root.pem") == founding.admin_folder(folder.path).certificates("root.pem")
    assert folder.authority(key_file.ROOT_KEY, key_file.ROOT).certificate == made.root_certificate


def test_every_key_that_init_makes_is_for_its_owner_alone(tmp_path: Path) -> None:
    folder = IdentityFolder(tmp_path / "identity")
    found(folder, "eu-1")
    modes = {
        str(path.relative_to(folder.path)): stat.S_IMODE(path.stat().st_mode)
        for path in folder.path.rglob("*.pem")
        if b"PRIVATE KEY" in path.read_bytes()
    }
    assert modes == dict.fromkeys(["key.pem", "issuer-key.pem", "root-key.pem", "admin/key.pem"], 0o600)


async def test_where_the_roots_key_is_elsewhere_devices_still_join(bench: Bench, open_bench: OpenBench) -> None:
    (bench.folder.path / key_file.ROOT_KEY).unlink()
    bench.desk.close()
    elsewhere = await open_bench(run_in_thread=in_place)
    assert (await join(elsewhere, await elsewhere.token(), make_key())).name == "pi"
    with pytest.raises(Refusal, match="root's key"):
        await elsewhere.token(2, role="coordinator")
