"""Renewing a service's own certificate at half of its life, by mutual TLS and without a restart."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence

from skerry.identity.certificate import Identified
from skerry.identity.errors import IdentityError
from skerry.identity.own import check_in_force, renewal_due_s
from skerry.joining import FixedCertificateError, JoinRefusedError, NotReachedError

LOOK_S = 600.0  # the longest sleep: wall clocks are set, and machines wake from suspension
TRIES = 20  # in what is left of a certificate when a renewal has failed
RETRY_MIN_S = 1.0

log = logging.getLogger(__name__)

Renew = Callable[[str], Awaitable[object]]


def pause_s(own: Identified, now_s: float, rng: random.Random, *, failed: bool) -> float:
    """Return how long to sleep before looking again; 0: renew now.

    Args:
        own: the certificate in use.
        now_s: wall clock.
        rng: for jitter, so that devices that joined together do not renew together.
        failed: the last attempt, just now, was in vain.
    """
    if failed:
        left_s = max(0.0, own.not_after_s - now_s)
        return max(RETRY_MIN_S, min(LOOK_S, left_s / TRIES)) * rng.uniform(0.5, 1.0)
    return min(max(0.0, renewal_due_s(own, now_s)), LOOK_S)


async def keep_renewing(
    own: Callable[[], Identified],
    renew: Renew,
    urls: Callable[[], Sequence[str]],
    renewed: Callable[[], None],
    *,
    wall_clock: Callable[[], float],
    rng: random.Random,
) -> None:
    """Renew for ever; returns only by being cancelled.

    Args:
        own: the certificate in use.
        renew: gets and keeps another one from the coordinator at a base URL, as `joining.renew` does.
        urls: of coordinators, tried in turn.
        renewed: puts the new certificate in use.
        wall_clock: seconds since 1970.
        rng: jitter.

    Raises:
        IdentityError: the certificate has expired, or was revoked, as every one of the coordinators says.
        StorageError: the disk refused.
    """
    failed = False
    while True:
        wait_s = pause_s(own(), wall_clock(), rng, failed=failed)
        failed = False
        if wait_s > 0.0:
            await asyncio.sleep(wait_s)
            check_in_force(own(), wall_clock())
        if renewal_due_s(own(), wall_clock()) > 0.0:
            continue
        failed = not await _renew_somewhere(renew, urls())
        if failed:
            continue
        renewed()
        if renewal_due_s(own(), wall_clock()) <= 0.0:
            failed = True  # or it would be renewed again and again
            log.warning("the certificate was renewed and is due again at once: is this machine's clock right?")
        else:
            log.info("the certificate was renewed; it counts for another %.0f s", own().not_after_s - wall_clock())


async def _renew_somewhere(renew: Renew, urls: Sequence[str]) -> bool:
    """Return whether one of the coordinators renews.

    Raises:
        IdentityError: every one says that the certificate was revoked; one alone may be in wrong hands.
    """
    revoked = []
    for url in urls:
        try:
            await renew(url)
        except JoinRefusedError as error:
            log.warning("the certificate was not renewed by %s: %s", url, error)
            if error.reason == "revoked":
                revoked.append(str(error))
        except (NotReachedError, FixedCertificateError) as error:
            log.warning("the certificate was not renewed: %s", error)
        else:
            return True
    if revoked and len(revoked) == len(urls):
        raise IdentityError(f"this certificate was revoked, say all coordinators that are known here: {revoked[0]}")
    return False
