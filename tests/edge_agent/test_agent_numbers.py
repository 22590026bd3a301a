"""What an agent believes of its own updates' numbers when a coordinator tells of them."""

from edge_agent.device_setup import Memory
from edge_agent.events import Connected, ContinueAfter, Received, Reconnect, Send
from skerry.protocol.ceiling import STEP, STEP_S
from tests.edge_agent.device_core import at, new_device, tell, welcome

END = 1 << 62  # the last number of all


def test_a_coordinator_cannot_use_up_the_numbers_of_a_device() -> None:
    device = new_device(Memory(41, 0, welcome(coordinator="b"), at(1)))
    for now_s in (1.0, 2.0):
        (left,) = tell(device, Connected(), Received(welcome(last_sequence=END)), now_s=now_s)
        assert isinstance(left, Reconnect)
        assert left.hopeless
        assert "has update 4611686018427387904 of this device, which is at 41" in left.reason
        assert device.progress(now_s).last_error == left.reason
        assert not device.connected
    (hello,) = tell(device, Connected(), now_s=3.0)
    assert isinstance(hello, Send)
    assert hello.message.last_sequence == 41  # type: ignore[union-attr]
    tell(device, Received(welcome(last_sequence=41)), now_s=3.0)
    assert device.connected


def test_a_device_whose_name_was_made_to_jump_while_it_lost_its_disk_goes_on_within_minutes() -> None:
    device, far = new_device(), Received(welcome(last_sequence=3 * STEP))
    first = [tell(device, Connected(), far, now_s=10.0 * tried)[0] for tried in range(13)]
    assert [type(effect) for effect in first[:-1]] == [Reconnect] * int(2 * STEP_S / 10.0)
    assert first[-1] == ContinueAfter(3 * STEP)
