"""Whether a write-ahead log was damaged after it was synced. SQLite does not tell: it ends it where a checksum fails.

After a power cut that is right: the last transaction may be torn, and nobody was told of it. But a bit that rots
further in front takes every later transaction with it, silently. A transaction begins only after the one before it was
synced; so where two follow the place of the damage, the first of them had been promised.

The format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

HEADER = np.dtype(
    [("magic", ">u4"), ("format", ">u4"), ("page_bytes", ">u4"), ("number", ">u4"), ("salt", "V8"), ("sum", ">u4", 2)]
)
FRAME = np.dtype([("page", ">u4"), ("commit", ">u4"), ("salt", "V8"), ("sum", ">u4", 2)])
CHUNK_FRAMES = 256
MAGIC = 0x377F0682  # plus one: words of checksums are big-endian
STEP = np.array([[1, 1], [1, 2]], np.uint32)  # one pair of words: s0 += x + s1; s1 += y + s0

Words = npt.NDArray[np.uint32]


def lost_transactions(path: Path) -> bool:
    """Say whether the log at `path` holds whole transactions behind a damage.

    Nobody may be writing it. A log that is missing, empty or torn at its end has lost nothing.

    Raises:
        OSError: it cannot be read.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return False
    with file:
        start = file.read(HEADER.itemsize)
        if len(start) < HEADER.itemsize:
            return False
        header = np.frombuffer(start, HEADER)[0]
        magic, page_bytes = int(header["magic"]), int(header["page_bytes"])
        words = ">u4" if magic & 1 else "<u4"
        whole = magic | 1 == MAGIC | 1 and page_bytes in {1 << power for power in range(9, 17)}
        state = _advance(np.zeros(2, np.uint32), np.frombuffer(start[:24], words)[None])[0]
        if not whole or not np.array_equal(state, header["sum"]):
            return any(start) and path.stat().st_size > HEADER.itemsize
        frame = np.dtype([("head", FRAME), ("page", "V", page_bytes)])
        promised = 0  # commits, and whatever follows one, behind the first frame that is not whole
        valid = True
        while len(chunk := file.read(CHUNK_FRAMES * frame.itemsize)) >= frame.itemsize:
            frames = np.frombuffer(chunk, frame, len(chunk) // frame.itemsize)
            ours = frames["head"]["salt"] == header["salt"]
            if valid:
                sums = _advance(state, _summed(frames, words))
                good = ours & (sums == frames["head"]["sum"]).all(axis=1)
                count = len(good) if good.all() else int(good.argmin())
                valid, state = count == len(frames), sums[-1]
                frames, ours = frames[count:], ours[count:]
            for commit in frames["head"]["commit"][ours]:
                if promised:
                    return True
                promised += bool(commit)
        return False


def _summed(frames: npt.NDArray[np.void], words: str) -> Words:
    """Return what the checksum of each frame goes over, uint32 of shape (frames, words)."""
    data = frames.view(np.uint8).reshape(len(frames), -1)
    return np.concatenate([data[:, :8], data[:, FRAME.itemsize :]], axis=1).view(words).astype(np.uint32)


def _advance(state: Words, blocks: Words) -> Words:
    """Return the checksum behind each of `blocks`, uint32 of shape (blocks, words); (blocks, 2), from `state` on.

    A pair of words (x, y) makes s0' = s0 + x + s1, s1' = s1 + y + s0'. That is linear modulo 2**32, so that all blocks
    are summed at once, and only what one leaves to the next goes step by step.
    """
    pairs = blocks.shape[1] // 2
    powers = np.empty((pairs + 1, 2, 2), np.uint32)
    powers[0] = np.eye(2, dtype=np.uint32)
    for n in range(pairs):
        powers[n + 1] = STEP @ powers[n]
    entering = powers[pairs - 1 :: -1] @ np.array([[1, 0], [1, 1]], np.uint32)  # of x and y, and then the pairs behind
    own = np.einsum("bpx,pxy->by", blocks.reshape(-1, pairs, 2), entering.transpose(0, 2, 1))
    sums = np.empty((len(blocks), 2), np.uint32)
    for index, one in enumerate(own):
        state = sums[index] = powers[pairs] @ state + one
    return sums
