"""What a registry makes of what its peers tell of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.enrolment import registry as registries
from coordinator.enrolment.records import PartyRow, Revocation, parse_party
from skerry.identity.certificate import Role
from tests.coordinator.enrolment.test_registry import KEY, NOW_S, OTHER_KEY, caller, join, refused, registry, token


def party(name: str = "pi", key: str = KEY, at_s: float = NOW_S) -> PartyRow:
    return PartyRow("agent", name, key, "us", name, "", at_s, 0.0, "")


def test_a_name_that_is_enrolled_at_a_peer_is_taken_here_too() -> None:
    eu = registry()
    token(eu)
    assert eu.learn_parties([party(), party()]) == [party()]
    with refused("name_taken"):
        join(eu, "pi", OTHER_KEY)
    assert eu.refusal(caller()) is None
    assert eu.revoke("agent", "pi") == [Revocation("agent", "pi", KEY)]


def test_of_two_keys_the_one_that_was_enrolled_first_holds_the_name_everywhere() -> None:
    """Two coordinators that could not reach each other let in one each; each hears of the other's."""
    rows = [party(key=KEY, at_s=NOW_S + 0.5), party(key=OTHER_KEY, at_s=NOW_S)]
    for order in (rows, rows[::-1]):
        one = registry()
        for row in order:
            one.learn_parties([row])
        assert one.refusal(caller(key=OTHER_KEY)) is None
        assert "another key" in str(one.refusal(caller(key=KEY)))


@pytest.mark.parametrize("role", ["coordinator", "admin"])
def test_no_peer_shuts_out_a_coordinator_or_an_operator(role: Role) -> None:
    own, claim, other = (
        party("eu-1", key, at_s)._replace(role=role) for key, at_s in zip("abc", (9.0, 0.0, 1.0), strict=True)
    )
    eu, us = registry(parties=[own]), registry()
    assert eu.learn_parties([claim]) == []
    assert eu.refusal(caller("eu-1", own.key, role)) is None
    assert us.learn_parties([own, claim]) == [own]
    us.revoke(role, "eu-1")
    assert us.learn_parties([claim, other]) == [claim]


def test_who_renews_elsewhere_before_it_is_known_there_keeps_its_place() -> None:
    """It was enrolled first, and renews where nobody has heard of that, nor of another key's later join."""
    us, asia = registry(process="a:1"), registry()
    us.renew(caller(), KEY, NOW_S + 100.0)
    us.learn_parties([party(key=OTHER_KEY, at_s=NOW_S + 50.0)])
    assert "another key" in str(us.refusal(caller()))
    first = party(at_s=NOW_S)
    assert [one.enrolled_at_s for one in us.learn_parties([first._replace(enrolled_at_s=NOW_S + 60.0), first])] == [
        NOW_S
    ]
    assert us.refusal(caller()) is None
    assert "another key" in str(us.refusal(caller(key=OTHER_KEY)))
    texts, _, _ = us.told_parties("")
    asia.learn_parties([row for text in texts if (row := parse_party(text)) is not None])
    assert asia.refusal(caller()) is None
    assert us.learn_parties([first, first._replace(enrolled_at_s=NOW_S + 1.0)]) == []


def test_a_certificate_that_was_being_signed_takes_no_place_back() -> None:
    us = registry()
    signing = us.renew(caller(), KEY, NOW_S + 100.0).party
    us.learn_parties([party(at_s=NOW_S)])
    us.enrol(signing._replace(serial="1f"))
    assert [(one.enrolled_at_s, one.serial) for one in us.parties()] == [(NOW_S, "1f")]


@pytest.mark.parametrize("role", ["coordinator", "admin"])
def test_of_an_own_party_a_peer_can_change_nothing_but_since_when_a_device_is_enrolled(role: Role) -> None:
    eu = registry()
    token(eu)
    own = join(eu).party
    assert eu.learn_parties([party(at_s=0.0)]) == eu.parties() == [own._replace(enrolled_at_s=0.0)]
    other = party("eu-1")._replace(role=role)
    eu.enrol(other)
    assert eu.learn_parties([other._replace(enrolled_at_s=0.0)]) == []


def test_one_peer_shuts_out_few_devices_in_a_day_by_revocations_and_claims_together() -> None:
    own = [party(f"n{number}", f"{number:064x}")._replace(serial="1f") for number in range(60)]
    eu = registry(parties=own)
    for one in own[:10]:
        eu.enrol(one._replace(serial="2f"))  # renewed: no further device
    eu.learn_parties([party(f"x{number}", f"{number:064x}") for number in range(100)])  # which nobody has seen here
    revoked = [Revocation("agent", one.name, one.key) for one in own]
    claims = [one._replace(key="f" * 64, enrolled_at_s=0.0) for one in own]
    assert eu.believed(revoked[:3], "us", NOW_S) == revoked[:3]
    assert eu.believed_parties(claims[3:], "us", NOW_S + 1.0) == claims[3:6]
    assert eu.believed(revoked, "us", NOW_S + 86399.0) == []
    assert eu.believed_parties(claims, "us", NOW_S + 86399.0) == []
    assert eu.believed(revoked, "ap", NOW_S + 1.0) == revoked[:6]  # whose word is another one
    assert eu.believed(revoked, "us", NOW_S + 86400.0) == revoked[:6]
    assert len(eu.revoke("agent", "n59")) == 1  # who revokes it here is an operator


def test_no_peer_keeps_devices_from_coming_back_by_revoking_nobody_under_their_keys() -> None:
    """As many as it may shut out in a day by their names, and none by another role."""
    own = [party(f"n{number}", f"{number:064x}")._replace(serial="1f") for number in range(20)]
    eu = registry(parties=own)
    roles: list[Role] = ["agent", "coordinator", "admin"]
    for role in roles:
        eu.learn(eu.believed([Revocation(role, f"nobody-{one.name}", one.key) for one in own], "us", NOW_S), "us")
    token(eu, uses=20)
    for one in own[:4]:
        with refused("revoked"):
            join(eu, one.name, one.key)
    for one in own[4:]:
        assert join(eu, one.name, one.key).party.key == one.key
    assert eu.believed([Revocation("agent", "n0", own[0].key)], "us", NOW_S) == []  # which is still served
    with refused("revoked"):
        join(eu, "x", own[9].key)


def test_what_shuts_no_device_out_is_believed() -> None:
    own = [party(f"n{number}", f"{number:064x}") for number in range(9)]
    eu = registry(parties=own)
    eu.learn([Revocation("agent", own[8].name, own[8].key), Revocation("agent", "n0", "c" * 64)], "us")
    eu.enrol(party("us-1")._replace(role="coordinator"))
    harmless = [
        Revocation("agent", own[8].name, own[8].key),
        *(Revocation("agent", one.name, "f" * 64) for one in own),
        Revocation("coordinator", "us-1", KEY),
    ]
    later = [*own, *(one._replace(key="f" * 64, enrolled_at_s=NOW_S + 1.0) for one in own), party("n8", "d" * 64, 0.0)]
    later.append(party("n0", "c" * 64, 0.0))
    for _ in range(3):
        assert eu.believed(harmless, "us", NOW_S) == harmless
        assert eu.believed_parties(later, "us", NOW_S) == later
    assert len(eu.believed([Revocation("agent", one.name, one.key) for one in own], "us", NOW_S)) == 4 + 1


PARTIES = st.lists(
    st.builds(
        party,
        st.text("aZ0._-", max_size=4).map(lambda rest: "n" + rest),
        st.integers(0, 15).map(lambda number: f"{number:064x}"),
        st.floats(0.0, 4e9).map(lambda at_s: round(at_s, 6)),
    ),
    max_size=12,
    unique_by=lambda one: (one.name, one.key),
)


@given(PARTIES, st.integers(1, 5))
def test_asked_page_by_page_a_peer_tells_every_party_once(parties: list[PartyRow], size: int) -> None:
    eu, us = registry(process="a:1"), registry()
    eu.learn_parties(parties)
    place, more = "", bool(eu.place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registries, "PAGE_ENTRIES_MAX", size)
        while more:
            texts, place, more = eu.told_parties(place)
            assert len(texts) <= size
            rows = [parse_party(one) for one in texts]
            assert us.learn_parties([row for row in rows if row is not None]) == rows
    assert us.parties() == eu.parties()
    assert place == eu.place


@pytest.mark.parametrize("place", ["", "0", "other:1", "now:-1", "now:x", "now:99999999999999999999", ":"])
def test_a_place_of_another_life_is_in_front_of_all(place: str) -> None:
    eu = registry(process="now", parties=[party()])
    assert eu.told_parties(place) == ([party().text()], "now:1", False)
    assert eu.told_parties("now:1") == ([], "now:1", False)
    assert eu.told_parties("now:7") == ([], "now:1", False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "agent/pi",
        *(f"agent/pi/{KEY}{rest}" for rest in ("", "/eu", "/eu/nan", "/e u/1.0", "/eu/-1.0", "/eu/1e9", "/eu/1.0\n")),
        f"root/pi/{KEY}/eu/1.0",
    ],
)
def test_what_is_no_party_is_none(text: str) -> None:
    assert parse_party(text) is None


def test_there_is_a_limit_to_the_parties_that_a_peer_may_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registries, "PARTIES_MAX", 2)
    eu = registry(parties=[party("a")])
    with refused("busy", "more than 2"):
        eu.learn_parties([party("b"), party("c")])
    assert eu.learn_parties([party("b")]) == [party("b")]
