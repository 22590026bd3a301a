"""The drawing of a world: every link as it is seen from its end."""

import pytest

from testbed.report.world import describe, link_between
from testbed.run_record import LinkRecord, WorldRecord

LINK = LinkRecord(a="pi", b="paris-1", latency_s=0.004, a_to_b_bits_per_s=2e7, b_to_a_bits_per_s=2.4e7)


@pytest.mark.parametrize(
    ("end", "words"), [("pi", "4 ms · ↑ 20 Mbit/s ↓ 24 Mbit/s"), ("paris-1", "4 ms · ↑ 24 Mbit/s ↓ 20 Mbit/s")]
)
def test_up_is_away_from_the_end_that_looks(end: str, words: str) -> None:
    assert describe(LINK, end) == words


def test_a_link_with_one_bandwidth_says_it_once() -> None:
    both = LinkRecord(a="a", b="b", latency_s=0.04, a_to_b_bits_per_s=None, b_to_a_bits_per_s=None)
    assert describe(both, "a") == "40 ms · unlimited"
    assert describe(None, "a") == "no link"


def test_a_link_is_found_from_both_ends() -> None:
    world = WorldRecord(regions=(), devices=(), links=(LINK,), shaping="relay")
    assert link_between(world, "pi", "paris-1") is LINK
    assert link_between(world, "paris-1", "pi") is LINK
    assert link_between(world, "paris-1", "sydney-1") is None
