"""Who holds which examples: pure functions from labels or clients to owners, one owner per example.

An owner array is int32 of shape (examples,): the number of the part that each example belongs to. Parts are therefore
disjoint and cover everything by construction. Every draw comes from SHAKE-256 over a text that holds the seed, not from
a random generator: the same parts with every version of Python and numpy, on every machine.
"""

import hashlib
import heapq
from itertools import count
from math import cos, inf, log, pi, sqrt
from typing import Literal

import numpy as np
import numpy.typing as npt

from skerry.errors import DataError

PARTS_MAX = 100_000
DIRICHLET_DRAWS_MAX = 50
ALPHA_MIN = 1e-9  # of a Dirichlet distribution; each class is one part's long before

Between = Literal["alike", "skewed"]
Owners = npt.NDArray[np.int32]
Shares = npt.NDArray[np.int64]  # (classes, parts): what part holds of each class, relative to the other parts

_UNIT = 1 << 32  # a whole class in shares that are drawn as fractions: cuts are integer arithmetic, thus exact


def iid(examples: int, parts: int, seed: int) -> Owners:
    """Return a random even split: sizes differ by at most 1.

    Raises:
        DataError: `parts` is not in [1, PARTS_MAX].
    """
    _check_parts(parts)
    owners = np.empty(examples, np.int32)
    owners[_permutation(examples, "iid", seed)] = np.arange(examples) % parts
    return owners


def natural(clients: npt.NDArray[np.int64], client_count: int, parts: int) -> Owners:
    """Return client k's examples to part k modulo `parts`.

    `clients` is int64 of shape (examples,), numbered from 0; `client_count` is how many there are in the training data,
    so that held-out examples, which some clients may not have, are dealt to the same parts.

    Raises:
        DataError: there are fewer clients than parts.
    """
    _check_parts(parts)
    if parts > client_count:
        raise DataError(f"parts={parts}: there are {client_count} natural clients, so at most as many parts")
    owners: Owners = (clients % parts).astype(np.int32)
    return owners


def shard_shares(
    labels: npt.NDArray[np.int64],
    parts: int,
    labels_per_part: int,
    seed: int,
    *,
    groups: int = 1,
    between: Between = "alike",
) -> Shares:
    """Cut every class into shards of about equal size and deal `labels_per_part` of them to each part.

    No shard crosses from one class to the next, so no part has more than `labels_per_part` labels; it has fewer where
    two of its shards are of one class. Source: McMahan et al. 2017 (arXiv:1602.05629), whose shards may cross.

    Parts form `groups` of neighbours, of equal size: the regions of a federation, say. `alike`: each group gets its
    even share of every class's shards, so that groups hold the same labels. `skewed`: each gets a run of neighbouring
    shards, so that groups hold few labels, and different ones.

    Raises:
        DataError: too few shards for the classes, or more shards than examples; or parts do not form such groups.
    """
    _check_parts(parts)
    if not 1 <= groups <= parts or parts % groups:
        raise DataError(f"parts={parts}, groups={groups}: groups must be of equal size")
    sizes = np.bincount(labels)
    present = np.flatnonzero(sizes).tolist()
    shards = parts * labels_per_part
    if not len(present) <= shards <= len(labels):
        raise DataError(
            f"parts={parts}, labels={labels_per_part}: makes {shards} shards, "
            f"must be at least {len(present)} (one per class) and at most {len(labels)} (one per example)"
        )
    dealt = np.repeat(np.arange(len(sizes)), _shards_per_class(sizes.tolist(), shards))
    shares = np.zeros((len(sizes), parts), np.int64)
    order = _permutation(shards, "shards", seed)
    size = shards // groups
    group = order % groups if between == "alike" else order // size
    order = order[np.argsort(group, kind="stable")]  # group by group, at random within each
    np.add.at(shares, (dealt[order], np.arange(shards) // labels_per_part), 1)
    return shares


def dirichlet_shares(labels: npt.NDArray[np.int64], parts: int, alpha: float, seed: int) -> Shares:
    """Draw for each class how it spreads over the parts, from a symmetric Dirichlet distribution.

    A small `alpha` gives each class to few parts; a large one spreads all classes evenly. A draw that leaves a part
    without any example is made anew. Source: Yurochkin et al. 2019 (arXiv:1905.12022), section 4.

    Raises:
        DataError: `alpha` is not in [ALPHA_MIN, inf), or some part stays empty in all DIRICHLET_DRAWS_MAX draws.
    """
    _check_parts(parts)
    if not ALPHA_MIN <= alpha < inf:
        raise DataError(f"alpha={alpha}: must be at least {ALPHA_MIN} and finite")
    classes = int(labels.max()) + 1 if len(labels) else 0
    for draw in range(DIRICHLET_DRAWS_MAX if parts <= len(labels) else 0):
        shares = np.stack([_dirichlet(parts, alpha, f"{seed}/{draw}/{label}") for label in range(classes)])
        if np.bincount(by_shares(labels, shares, seed), minlength=parts).min() > 0:
            return shares
    raise DataError(
        f"parts={parts}, alpha={alpha}, seed={seed}: some part always stays without an example: "
        "take a larger alpha or fewer parts"
    )


def by_shares(labels: npt.NDArray[np.int64], shares: Shares, seed: int) -> Owners:
    """Cut the examples of each class, in random order, in proportion to that class's row of `shares`.

    `labels` is int64 of shape (examples,). Held-out examples cut by the same shares as training examples give each part
    the same kind of both.

    Raises:
        DataError: an example is of a class of which `shares` says nothing.
    """
    present = np.flatnonzero(np.bincount(labels)).tolist()
    strange = [label for label in present if label >= len(shares) or not shares[label].any()]
    if strange:
        raise DataError(f"class {strange[0]}: has examples that are held out, and none to train on")
    owners = np.empty(len(labels), np.int32)
    parts = np.arange(shares.shape[1], dtype=np.int32)
    for label, share in enumerate(shares):
        rows = np.flatnonzero(labels == label)
        if len(rows):
            ends = len(rows) * np.cumsum(share) // share.sum()
            order = _permutation(len(rows), f"shares/{label}", seed)
            owners[rows[order]] = np.repeat(parts, np.diff(ends, prepend=0))
    return owners


def _check_parts(parts: int) -> None:
    if not 1 <= parts <= PARTS_MAX:
        raise DataError(f"parts={parts}: must be 1 to {PARTS_MAX}")


def _shards_per_class(sizes: list[int], shards: int) -> list[int]:
    """Give every class that has examples one shard, then each further shard to the class whose shards are largest."""
    given = [min(size, 1) for size in sizes]
    largest = [(-float(size), label) for label, size in enumerate(sizes) if size]
    heapq.heapify(largest)
    for _ in range(shards - len(largest)):
        label = largest[0][1]
        given[label] += 1
        heapq.heapreplace(largest, (-sizes[label] / given[label], label))
    return given


def _dirichlet(parts: int, alpha: float, key: str) -> npt.NDArray[np.int64]:
    """Return `parts` shares of _UNIT, rounded down. In logarithms, as a tiny alpha's gammas underflow."""
    logs = np.array([_log_gamma_draw(alpha, f"{key}/{part}") for part in range(parts)])
    weights = np.exp(logs - logs.max())
    fractions: npt.NDArray[np.float64] = weights / weights.sum()
    return (fractions * _UNIT).astype(np.int64)


def _log_gamma_draw(alpha: float, key: str) -> float:
    """Return the logarithm of a draw from Gamma(alpha, 1). Source: Marsaglia and Tsang 2000, ACM TOMS 26(3)."""
    d = alpha + 1.0 - 1.0 / 3.0  # of Gamma(alpha + 1), which for alpha < 1 is the one that the method draws
    for attempt in count():
        u1, u2, u3, u4 = ((int(key_bits >> 11) + 1) * 2.0**-53 for key_bits in _keys(4, f"gamma/{key}", attempt))
        normal = sqrt(-2.0 * log(u1)) * cos(2.0 * pi * u2)
        v = (1.0 + normal / sqrt(9.0 * d)) ** 3
        if v > 0.0 and log(u3) < 0.5 * normal * normal + d - d * v + d * log(v):
            return log(d * v) + log(u4) / alpha
    raise AssertionError("unreachable")


def _permutation(examples: int, what: str, seed: int) -> npt.NDArray[np.int64]:
    return np.argsort(_keys(examples, what, seed), kind="stable").astype(np.int64, copy=False)


def _keys(number: int, what: str, seed: int) -> npt.NDArray[np.uint64]:
    """Return random 64-bit integers that depend on nothing but the arguments."""
    stream = hashlib.shake_256(f"skerry/partition/1/{what}/{seed}".encode()).digest(8 * number)
    return np.frombuffer(stream, "<u8").astype(np.uint64, copy=False)
