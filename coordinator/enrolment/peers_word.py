"""How many devices that are let in here one peer's word can shut out in a day. Pure.

A revocation is never taken back: one coordinator in wrong hands could else end every device of the federation.
"""

SHARE = 10  # of the devices that got their certificate here, one in so many
DEVICES_MIN = 4
PERIOD_S = 86400.0


class PeersWord:
    """What each peer has shut out; known from one start to the next."""

    def __init__(self) -> None:
        self._spent: dict[str, tuple[float, int]] = {}  # by peer: since when, and how many devices

    def counts(self, peer: str, devices: int, now_s: float) -> bool:
        """Shut out one device more at a peer's word; False: that was its share of all `devices` for this day."""
        since_s, count = self._spent.get(peer, (now_s, 0))
        if not 0.0 <= now_s - since_s < PERIOD_S:
            since_s, count = now_s, 0
        if count >= max(DEVICES_MIN, devices // SHARE):
            return False
        self._spent[peer] = since_s, count + 1
        return True
