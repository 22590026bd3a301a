"""Who may connect how often, decided without a socket."""

import pytest

from coordinator.admission import ADDRESSES_MAX, Admission, Allowances, Bucket, key_of

ME, OTHER = "192.0.2.1", "192.0.2.2"


def admission(**limits: float) -> Admission:
    plenty = {
        "connections_max": 1000,
        "per_address_max": 1000,
        "rate_per_s": 1000.0,
        "rate_per_address_per_s": 1000.0,
    }
    return Admission(**(plenty | limits))  # type: ignore[arg-type]


def test_a_bucket_holds_five_seconds_and_fills_at_its_rate() -> None:
    bucket = Bucket(2.0, 100.0)
    assert [bucket.take(100.0) for _ in range(11)] == [True] * 10 + [False]
    assert [bucket.take(101.0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(1000.0) for _ in range(11)] == [True] * 10 + [False]


def test_a_bucket_of_a_tiny_rate_still_holds_one() -> None:
    bucket = Bucket(0.001, 0.0)
    assert bucket.take(0.0)
    assert not bucket.take(999.0)
    assert bucket.take(1001.0)


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    bucket = Bucket(1.0, 10.0)
    while bucket.take(10.0):
        pass
    assert not bucket.take(5.0)
    assert bucket.take(6.5)


def test_what_is_owed_is_waited_for_at_the_rate() -> None:
    bucket = Bucket(2.0, 0.0)
    assert [bucket.owe(0.0) for _ in range(10)] == [0.0] * 10
    assert [bucket.owe(0.0) for _ in range(3)] == [0.5, 1.0, 1.5]
    assert bucket.owe(1.5) == 0.5


def test_one_address_that_connects_too_often_takes_nothing_from_another() -> None:
    door = admission(rate_per_address_per_s=1.0, rate_per_s=2.0)
    answers = [door.admit(ME, 0.0) for _ in range(100)]
    assert answers == [None] * 5 + ["address_rate"] * 95
    assert [door.admit(OTHER, 0.0) for _ in range(6)] == [None] * 5 + ["address_rate"]
    assert door.open == 10


def test_another_limit_lets_more_in_and_turns_nobody_out() -> None:
    door = admission(connections_max=2)
    assert [door.admit(ME, 0.0) for _ in range(3)] == [None, None, "full"]
    door.connections_max = 3
    assert [door.admit(ME, 0.0) for _ in range(2)] == [None, "full"]
    door.connections_max = 1
    assert door.open == 3
    door.release(ME)
    door.release(ME)
    assert door.admit(ME, 0.0) == "full"


def test_all_addresses_together_have_a_rate() -> None:
    door = admission(rate_per_s=1.0)
    answers = [door.admit(f"192.0.2.{number}", 0.0) for number in range(7)]
    assert answers == [None] * 5 + ["rate"] * 2
    assert door.admit(ME, 1.0) is None


def test_places_are_counted_by_address_and_given_back() -> None:
    door = admission(per_address_max=2)
    assert [door.admit(ME, 0.0) for _ in range(3)] == [None, None, "address_full"]
    assert door.admit(OTHER, 0.0) is None
    door.release(ME)
    assert door.admit(ME, 0.0) is None
    assert door.open == 3


def test_places_of_all_together_are_counted() -> None:
    door = admission(connections_max=2)
    assert [door.admit(f"192.0.2.{number}", 0.0) for number in range(3)] == [None, None, "full"]
    door.release("192.0.2.0")
    assert door.admit("192.0.2.9", 0.0) is None


def test_memory_is_bounded_whatever_addresses_come() -> None:
    door = admission(connections_max=3, per_address_max=1)
    for number in range(3):
        assert door.admit(f"10.0.0.{number}", 0.0) is None
    for number in range(3 * ADDRESSES_MAX):
        assert door.admit(f"2001:db8:{number:x}::1", 1.0) == "full"
    assert (len(door._hosts), len(door._idle)) == (3, ADDRESSES_MAX)
    door.release("10.0.0.1")  # is still known
    assert door.open == 2
    assert (len(door._hosts), len(door._idle)) == (2, ADDRESSES_MAX)


def test_who_makes_room_for_a_new_address_is_found_without_a_look_at_those_that_are_connected() -> None:
    """A flood of new addresses must cost the same however many streams stand. Who has just left is kept longest."""
    door = admission(connections_max=10)
    for address in ("10.0.0.1", "10.0.0.2", "10.0.0.1"):
        assert door.admit(address, 0.0) is None
    assert (list(door._hosts), list(door._idle)) == (["10.0.0.1", "10.0.0.2"], [])
    door.release("10.0.0.1")
    assert list(door._hosts) == ["10.0.0.1", "10.0.0.2"]
    door.release("10.0.0.1")
    door.release("10.0.0.2")
    assert (list(door._hosts), list(door._idle)) == ([], ["10.0.0.1", "10.0.0.2"])
    assert door.admit("10.0.0.2", 0.0) is None
    door.release("10.0.0.2")
    for number in range(ADDRESSES_MAX - 1):
        door.admit(f"2001:db8:{number:x}::1", 0.0)
        door.release(f"2001:db8:{number:x}::1")
    assert "10.0.0.1" not in door._idle
    assert "10.0.0.2" in door._idle


def test_of_those_without_a_connection_who_asked_last_is_forgotten_last() -> None:
    door = admission(connections_max=1)
    assert door.admit("10.0.0.1", 0.0) is None
    for address in ("10.0.0.2", "10.0.0.3", "10.0.0.2", *(f"2001:db8:{n:x}::1" for n in range(ADDRESSES_MAX - 1))):
        assert door.admit(address, 0.0) == "full"
    assert ("10.0.0.2" in door._idle, "10.0.0.3" in door._idle) == (True, False)


def test_each_name_has_its_own_share_and_memory_is_bounded() -> None:
    allowances = Allowances(1.0)
    assert [allowances.take("pi-1", 0.0) for _ in range(6)] == [True] * 5 + [False]
    assert allowances.take("pi-2", 0.0)
    assert allowances.take("pi-1", 1.0)
    assert not allowances.take("pi-1", 1.0)
    for number in range(2 * ADDRESSES_MAX):
        allowances.take(f"pi-{number}", 2.0)
    assert len(allowances._buckets) == ADDRESSES_MAX


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_host_has_all_addresses_of_its_network_of_ipv6(address: str, key: str) -> None:
    assert key_of(address) == key
