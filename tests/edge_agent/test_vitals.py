"""What the agent knows of its own process."""

import mmap

from edge_agent.vitals import ThisProcess

SIZE = 64 << 20


def test_the_peak_outlives_the_memory() -> None:
    process = ThisProcess()
    before = process.resident_bytes()
    block = mmap.mmap(-1, SIZE)  # never from what the process has spare
    for page in range(0, SIZE, mmap.PAGESIZE):
        block[page] = 1
    assert process.resident_bytes() >= before + SIZE // 2
    block.close()
    assert process.peak_bytes() >= before + SIZE // 2
    assert process.peak_bytes() >= process.resident_bytes()
