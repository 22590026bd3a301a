import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.enrolment import registry as registries
from coordinator.enrolment.records import PartyRow, Revocation, TokenRow, parse_revocation
from coordinator.enrolment.registry import Admission, Refusal, Registry
from skerry.identity.certificate import Identified, Issuer, Role, Subject

FEDERATION = "0123456789abcdef"
NOW_S = 1_800_000_000.0
HOUR_S = 3600.0
SECRET = bytes(range(32))
KEY, OTHER_KEY, THIRD_KEY = "a" * 64, "b" * 64, "c" * 64


def registry(**parts: object) -> Registry:
    return Registry("eu-1", "eu", **{"signs_coordinators": True, **parts})  # type: ignore[arg-type]


def token(in_: Registry, identifier: str = "00" * 8, **wanted: object) -> TokenRow:
    defaults: dict[str, object] = {"role": "agent", "ttl_s": HOUR_S, "uses": 1}
    return in_.create_token(identifier, SECRET, NOW_S, **(defaults | wanted))[0]  # type: ignore[arg-type]


def join(in_: Registry, name: str | None = "pi", key: str = KEY, at_s: float = NOW_S, of: str = "00" * 8) -> Admission:
    role = next(one.role for one in in_.tokens() if one.identifier == of)
    return in_.join(in_.check_token(of, SECRET, role), name, key, at_s)


def caller(name: str = "pi", key: str = KEY, role: Role = "agent") -> Identified:
    return Identified(Subject(FEDERATION, role, name), key, "1", NOW_S, NOW_S + HOUR_S)


def refused(reason: str, text: str | None = None) -> pytest.RaisesExc[Refusal]:
    return pytest.raises(Refusal, match=text, check=lambda refusal: refusal.reason == reason)


# --- joining ---


def test_a_device_joins_with_a_join_token_and_takes_a_use() -> None:
    eu = registry()
    token(eu, region="us")
    admission = join(eu)
    assert admission.party == PartyRow("agent", "pi", KEY, "us", "pi", "00" * 8, NOW_S, 0.0, "")
    assert not admission.known
    assert admission.token is not None
    assert admission.token.used == 1
    assert eu.tokens() == [admission.token]


def test_a_used_join_token_lets_no_second_device_in() -> None:
    eu = registry()
    token(eu)
    join(eu)
    with refused("used", "used up, 1 of 1"):
        join(eu, "other", OTHER_KEY)


@given(uses=st.integers(1, 5), joins=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=20))
def test_no_join_token_is_used_more_often_than_it_may(uses: int, joins: list[tuple[int, int]]) -> None:
    """However names and keys repeat: as many parties as uses, and no name with two keys."""
    eu = registry()
    token(eu, uses=uses)
    let_in = set()
    for name, key in joins:
        try:
            let_in.add(join(eu, f"pi-{name}", str(key) * 64).party[1:3])
        except Refusal:
            continue
    assert len(let_in) <= uses
    assert len({name for name, _ in let_in}) == len(let_in)
    assert eu.tokens()[0].used == len(let_in) == len(eu.parties())


def test_joining_again_with_the_same_key_takes_no_further_use() -> None:
    """The answer was lost; by now the join token is used, expired or revoked."""
    eu = registry()
    token(eu)
    first = join(eu)
    eu.revoke_token("00" * 8)
    again = join(eu, at_s=NOW_S + 2 * HOUR_S)
    assert (again.known, again.token, again.party) == (True, None, first.party)
    eu.enrol(signed := first.party._replace(expires_at_s=NOW_S + 3 * HOUR_S, serial="1"))
    assert join(eu, at_s=NOW_S + 2 * HOUR_S).party == signed
    assert eu.tokens()[0].used == 1


@pytest.mark.parametrize("expires_at_s", [0.0, NOW_S - HOUR_S, NOW_S + HOUR_S], ids=["elsewhere", "expired", "soon"])
def test_who_comes_again_when_its_certificate_ends_needs_a_join_token_that_counts(expires_at_s: float) -> None:
    """Or the join token that it came with once would be as good as a certificate without an end."""
    old = PartyRow("agent", "pi", KEY, "eu", "Kitchen", "22" * 8, 1.0, expires_at_s, "1" if expires_at_s else "")
    eu = registry(parties=[old])
    made = token(eu)
    again = eu.join(made, "pi", KEY, NOW_S, left_s_min=HOUR_S)
    assert again.party == old._replace(join_token="00" * 8, expires_at_s=0.0, serial="")
    assert (again.known, again.token) == (False, made._replace(used=1))
    eu.enrol(old)
    with refused("used"):
        eu.join(eu.tokens()[0], "pi", KEY, NOW_S, left_s_min=HOUR_S)


def test_a_join_token_ends_with_its_time_to_live() -> None:
    eu = registry()
    token(eu, uses=2)
    join(eu, at_s=NOW_S + HOUR_S - 1)
    with refused("expired", "expired 0 s ago"):
        join(eu, "other", OTHER_KEY, NOW_S + HOUR_S)


def test_a_revoked_join_token_lets_nobody_in_and_throws_nobody_out() -> None:
    eu = registry()
    token(eu, uses=2)
    join(eu)
    assert eu.revoke_token("00" * 8).revoked == 1
    with refused("revoked", "join token was revoked"):
        join(eu, "other", OTHER_KEY)
    assert eu.refusal(caller()) is None


@pytest.mark.parametrize(
    ("identifier", "secret"),
    [("00" * 8, bytes(32)), ("11" * 8, SECRET), ("11" * 8, bytes(32))],
    ids=["secret", "identifier", "both"],
)
def test_a_wrong_secret_and_an_unknown_join_token_are_told_alike(identifier: str, secret: bytes) -> None:
    eu = registry()
    token(eu)
    with refused("unknown", "coordinator 'eu-1' knows no such join token: it is mistyped, or was made by another one"):
        eu.check_token(identifier, secret, "agent")


def test_a_join_token_is_for_one_role() -> None:
    eu = registry()
    token(eu)
    with refused("wrong_role", "role agent, not coordinator"):
        eu.check_token("00" * 8, SECRET, "coordinator")


def test_a_join_token_never_evicts_a_device() -> None:
    eu = registry()
    token(eu, uses=5)
    join(eu)
    with refused("name_taken", "devices revoke pi"):
        join(eu, "pi", OTHER_KEY)
    assert eu.refusal(caller()) is None
    assert eu.tokens()[0].used == 1


def test_a_revoked_name_can_be_had_by_a_new_key_and_not_by_the_old_one() -> None:
    eu = registry()
    token(eu, uses=5)
    join(eu)
    eu.revoke("agent", "pi")
    with refused("revoked", "was revoked"):
        join(eu)
    assert join(eu, "pi", OTHER_KEY).party.key == OTHER_KEY
    assert eu.refusal(caller(key=OTHER_KEY)) is None
    assert eu.refusal(caller()) == "the certificate of agent 'pi' was revoked"


def test_a_revoked_key_joins_under_no_name_and_in_no_role() -> None:
    eu, us = registry(), registry(revocations=[Revocation("agent", "pi", KEY)])
    for one in (eu, us):
        token(one, uses=2)
        token(one, "11" * 8, role="coordinator")
    eu.learn([Revocation("agent", "pi", KEY)], "us")
    for one in (eu, us):
        for name, of in (("other", "00" * 8), ("eu-2", "11" * 8)):
            with refused("revoked", "under this name or another"):
                join(one, name, KEY, of=of)
        assert join(one, "other", OTHER_KEY).party.key == OTHER_KEY


def test_a_join_token_may_be_for_one_name() -> None:
    eu = registry()
    token(eu, name="greenhouse-7")
    with refused("name", "is for 'greenhouse-7', not for 'pi'"):
        join(eu)
    assert join(eu, None).party.name == "greenhouse-7"


def test_who_names_itself_not_is_named_after_its_key_each_time_alike() -> None:
    eu = registry()
    token(eu)
    assert join(eu, None).party.name == join(eu, None).party.name == "device-aaaaaaaaaa"


def test_only_where_the_roots_key_is_do_coordinators_join() -> None:
    us = registry(signs_coordinators=False)
    with refused("no_root", "root's key"):
        token(us, role="coordinator")
    moved = registry(signs_coordinators=False, tokens=[token(registry(), role="coordinator")])
    with refused("no_root"):
        join(moved, "us-1")
    eu = registry()
    token(eu, role="coordinator")
    assert join(eu, "us-1").party.role == "coordinator"


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({"ttl_s": 59.0}, "time to live"),
        ({"ttl_s": 367 * 86400.0}, "time to live"),
        ({"ttl_s": float("nan")}, "time to live"),
        ({"uses": 0}, "uses"),
        ({"uses": 100_001}, "uses"),
        ({"name": "pi", "uses": 2}, "one use"),
        ({"name": "p/i"}, "no name"),
        ({"region": ""}, "no name"),
    ],
)
def test_a_join_token_that_makes_no_sense_is_refused(wanted: dict[str, Any], text: str) -> None:
    eu = registry()
    with refused("malformed", text):
        token(eu, **wanted)
    assert eu.tokens() == []


def test_no_join_token_takes_the_place_of_another() -> None:
    eu = registry()
    token(eu)
    with refused("malformed", "already"):
        token(eu)


def test_ended_join_tokens_make_room_for_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registries, "TOKENS_MAX", 10)
    eu = registry()
    for number in range(10):
        token(eu, f"{number:016x}")
    with refused("busy", "revoke some"):
        token(eu, "ff" * 8)
    eu.revoke_token(f"{3:016x}")
    _, forgotten = eu.create_token("ff" * 8, SECRET, NOW_S, role="agent", ttl_s=HOUR_S, uses=1)
    assert forgotten == [f"{3:016x}"]
    assert len(eu.tokens()) == 10


# --- who is refused ---


def test_a_party_that_was_enrolled_elsewhere_is_welcome() -> None:
    assert registry().refusal(caller("far")) is None


def test_of_two_keys_with_one_name_the_first_one_holds_it() -> None:
    """The second certificate is genuine: another coordinator has signed it."""
    eu = registry()
    token(eu)
    join(eu)
    assert eu.refusal(caller()) is None
    assert "belongs to another key" in str(eu.refusal(caller(key=OTHER_KEY)))
    eu.revoke("agent", "pi", KEY)
    assert eu.refusal(caller(key=OTHER_KEY)) is None


def test_a_revocation_is_for_one_role() -> None:
    eu = registry()
    eu.learn([Revocation("agent", "pi", KEY)], "us-1")
    assert eu.refusal(caller()) is not None
    assert eu.refusal(caller(role="coordinator")) is None


# --- renewal ---


def test_a_renewal_is_for_the_same_key_and_name() -> None:
    eu = registry()
    token(eu)
    party = join(eu).party
    assert eu.renew(caller(), KEY, NOW_S + HOUR_S) == Admission(party, known=True)
    with refused("malformed", "another key"):
        eu.renew(caller(), OTHER_KEY, NOW_S)


def test_a_device_may_renew_at_any_coordinator_which_then_knows_it() -> None:
    us = registry()
    admission = us.renew(caller(), KEY, NOW_S)
    assert (admission.party.name, admission.known) == ("pi", False)
    assert "another key" in str(us.refusal(caller(key=OTHER_KEY)))


def test_a_revoked_party_renews_nothing() -> None:
    eu = registry()
    eu.learn([Revocation("agent", "pi", KEY)], "us-1")
    with refused("revoked"):
        eu.renew(caller(), KEY, NOW_S)


@pytest.mark.parametrize("role", ["coordinator", "admin"])
def test_only_where_the_roots_key_is_do_coordinators_and_operators_renew(role: Role) -> None:
    with refused("no_root"):
        registry(signs_coordinators=False).renew(caller(role=role), KEY, NOW_S)
    assert registry().renew(caller(role=role), KEY, NOW_S).party.role == role


# --- operators ---


def test_who_is_not_enrolled_cannot_be_revoked_or_renamed_by_name() -> None:
    eu = registry()
    with refused("unknown", "see `devices list --all`"):
        eu.revoke("agent", "pi")
    with refused("unknown"):
        eu.rename("agent", "pi", "Kitchen")
    with refused("unknown"):
        eu.revoke_token("00" * 8)
    assert eu.revoke("agent", "pi", KEY) == [Revocation("agent", "pi", KEY)]


def test_another_title_leaves_the_name() -> None:
    eu = registry()
    token(eu)
    join(eu)
    (changed,) = eu.rename("agent", "pi", "the one by the window")
    assert (changed.name, changed.title) == ("pi", "the one by the window")
    assert eu.parties() == [changed]
    for title in ("", "a\nb", "\x1b[2J", "a" * 101):
        with refused("malformed", "title"):
            eu.rename("agent", "pi", title)


# --- revocations ---

REVOCATIONS = st.lists(
    st.builds(
        Revocation,
        st.sampled_from(["agent", "coordinator", "admin"]),
        st.text("aZ0._-", max_size=4).map(lambda rest: "n" + rest),
        st.integers(0, 1 << 256).map(lambda number: f"{number % (1 << 256):064x}"),
    ),
    max_size=12,
)


@given(REVOCATIONS, REVOCATIONS)
def test_in_whatever_order_they_come_revocations_have_one_digest(
    some: list[Revocation], more: list[Revocation]
) -> None:
    eu, us = registry(), registry()
    eu.learn(some, "us-1")
    assert (eu.digest is None) == (not some)
    eu.learn(more, "us-1")
    us.learn(more[::-1] + some, "us-1")
    texts = sorted({one.text() for one in some + more})
    expected = hashlib.sha256("".join(f"{one}\n" for one in texts).encode()).hexdigest() if texts else None
    assert eu.digest == us.digest == expected
    assert registry(revocations=some + more).digest == expected


@given(st.lists(REVOCATIONS, min_size=1, max_size=4), st.data())
def test_asked_page_by_page_a_peer_tells_every_revocation_once(
    lists: list[list[Revocation]], data: st.DataObject
) -> None:
    eu = registry()
    for one in lists:
        eu.learn(one, "us-1")
    size = data.draw(st.integers(1, 5))
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registries, "PAGE_ENTRIES_MAX", size)
        more = True
        while more:
            page, more = eu.revocations(told[-1] if told else "")
            assert len(page) <= size
            told += page
    assert told == sorted({one.text() for each in lists for one in each})


@given(REVOCATIONS)
def test_a_revocation_is_read_as_it_was_told(revocations: list[Revocation]) -> None:
    for one in revocations:
        assert parse_revocation(one.text()) == one


@pytest.mark.parametrize(
    "text",
    ["", "agent/pi", f"agent/pi/{KEY}/", f"root/pi/{KEY}", f"agent/p i/{KEY}", f"agent/pi/{KEY}\n", f"agent//{KEY}"],
)
def test_what_is_no_revocation_is_none(text: str) -> None:
    assert parse_revocation(text) is None


def test_what_is_known_is_not_new() -> None:
    eu = registry()
    one = Revocation("agent", "pi", KEY)
    assert eu.learn([one, one], "us-1") == [one]
    assert eu.learn([one], "us-1") == []


def test_a_peer_that_revokes_too_much_takes_no_room_from_anybody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registries, "REVOCATIONS_PER_PEER_MAX", 2)
    eu = registry(revocations=[Revocation("agent", "a", KEY)])
    b, c, d = (Revocation("agent", name, KEY) for name in "bcd")
    with refused("busy", "more than 2 revocations of 'us-1'"):
        eu.learn([b, c, d], "us-1")
    assert eu.learn([b, c], "us-1") == [b, c]
    assert eu.learn([b, c], "us-1") == []
    with refused("busy"):
        eu.learn([d], "us-1")
    assert eu.learn([d], "ap-1") == [d]
    assert eu.revoke("coordinator", "us-1", KEY) == [Revocation("coordinator", "us-1", KEY)]
    assert eu.revoke("coordinator", "us-1", KEY) == []


def test_what_the_issuer_of_a_revoked_coordinator_signed_counts_no_more() -> None:
    """An older issuer does not say which of the keys under its coordinator's name is the one that it belongs to."""
    eu = registry()
    signed = {key: replace(caller(), issuer=Issuer("us-1", key)) for key in (KEY, OTHER_KEY, "")}
    eu.revoke("coordinator", "us-10", KEY)
    eu.revoke("agent", "us-1", KEY)
    assert [eu.refusal(one) for one in signed.values()] == [None, None, None]
    eu.revoke("coordinator", "us-1", KEY)
    for key in (KEY, ""):
        assert "'us-1', which signed" in str(eu.refusal(signed[key]))
        with refused("revoked"):
            eu.renew(signed[key], KEY, NOW_S)
    assert eu.refusal(signed[OTHER_KEY]) is None
