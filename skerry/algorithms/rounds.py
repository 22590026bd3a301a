"""Rounds, as a region sees them: who is selected, who has delivered, when a round is over. Scalars only, no I/O.

Source: FedAvg (McMahan et al. 2017, arXiv:1602.05629). Deviations, for a world in which devices die and coordinators
restart: a round that lasts for longer than its time-out ends with the updates that are there, or with another draw of
devices where there is none. An update of a device that was not selected counts if it is of the round's model.
"""

from collections.abc import Collection, Iterable
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from skerry.algorithms.arrival import FedAvg


class RoundState(msgspec.Struct, frozen=True, tag="rounds"):
    """What a coordinator must not forget of its rounds."""

    number: int = 0  # of the newest round, from 1; 0: none has begun
    version: int = 0  # of the model that its updates start from
    selected: tuple[str, ...] = ()  # its devices; none: it is over


class Rounds:
    """The rounds of one region, one after the other. Times are seconds on one clock that never goes back."""

    def __init__(
        self, rule: "FedAvg", seed: str, now_s: float, state: RoundState | None, delivered: Iterable[str]
    ) -> None:
        """Go on from `state`; a round that was under way has its whole time-out again.

        Args:
            rule: the settings.
            seed: of all draws.
            now_s: on the clock of all later calls.
            state: of `snapshot`; None: nothing is remembered.
            delivered: devices whose update of the round under way is held.
        """
        self._rule = rule
        self._seed = seed
        self._state = state or RoundState()
        self._began_s = now_s
        self._delivered = set(delivered)
        self._awaited = set(self._state.selected) - self._delivered

    @property
    def number(self) -> int:
        """Of the round under way, or of the last one."""
        return self._state.number

    @property
    def under_way(self) -> bool:
        """Whether a round has begun and is not over."""
        return bool(self._state.selected)

    @property
    def awaited(self) -> Collection[str]:
        """The selected devices that have not delivered yet."""
        return self._awaited

    def snapshot(self) -> RoundState:
        """Return what a restart needs."""
        return self._state

    def takes(self, device: str, version: int) -> bool:
        """Say whether an update that starts from model `version` is one of this round, and the device's first."""
        return self.under_way and version >= self._state.version and device not in self._delivered

    def begin(self, devices: Collection[str], version: int, now_s: float) -> bool:
        """Begin the next round with a draw of `devices`, if there are enough; `version`: of the region's model."""
        assert not self.under_way
        if len(devices) < self._rule.devices_min:
            return False
        count = max(1, min(len(devices), round(self._rule.fraction * len(devices))))
        number = self._state.number + 1
        drawn = sorted(devices, key=lambda device: self._lot(number, device))[:count]
        self._state = RoundState(number, version, tuple(sorted(drawn)))
        self._awaited, self._delivered = set(drawn), set()
        self._began_s = now_s
        return True

    def _lot(self, number: int, device: str) -> bytes:
        """Return what a device draws for a round; the lowest are selected."""
        return sha256(f"{self._seed} {number} {device}".encode()).digest()

    def delivered(self, device: str) -> None:
        """Note that a device's update is held."""
        self._delivered.add(device)
        self._awaited.discard(device)

    def excuse(self, device: str) -> None:
        """Wait no longer for a device: its update cannot be used."""
        self._awaited.discard(device)

    def is_over(self, now_s: float) -> bool:
        """Say whether every selected device has delivered, or time is up."""
        timed_out = now_s >= self._began_s + self._rule.round_timeout_s
        return self.under_way and (not self._awaited or timed_out)

    def end(self) -> None:
        """End the round; what is delivered from now on is late."""
        self._state = msgspec.structs.replace(self._state, selected=())
        self._awaited, self._delivered = set(), set()
