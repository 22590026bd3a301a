"""What the agent knows of its own process."""

from edge_agent.vitals import ThisProcess

SIZE = 64 << 20


def test_the_peak_outlives_the_memory() -> None:
    process = ThisProcess()
    before = process.resident_bytes()
    block = bytes(range(256)) * (SIZE // 256)
    assert process.resident_bytes() >= before + SIZE // 2
    del block
    assert process.peak_bytes() >= before + SIZE // 2
    assert process.peak_bytes() >= process.resident_bytes()
