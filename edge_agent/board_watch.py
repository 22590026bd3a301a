"""Looks at the board every few seconds and tells the core what the policy makes of it."""

import asyncio
from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path

import msgspec

from edge_agent.board import Board
from edge_agent.events import Event, PaceDecided
from edge_agent.flash import FlashBudget
from edge_agent.threads import RunInThread
from skerry.policy import Decider, Policy, Reading


class BoardWatch:
    """Reads the board off the loop; what the agent writes is counted on the way."""

    def __init__(
        self,
        policy: Policy,
        board: Board,
        flash: FlashBudget,
        state_dir: Path,
        wall_clock: Callable[[], float],
        time_zone: tzinfo | None = None,
    ) -> None:
        """`wall_clock` gives Unix time, for quiet hours alone, in `time_zone`; None: the system's."""
        self._policy, self._board, self._state_dir, self._wall_clock = policy, board, state_dir, wall_clock
        self._time_zone = time_zone
        self._decider = Decider(policy)
        self.flash = flash
        self.temperature_c: float | None = None  # of the hottest sensor at the latest look; None: there is none

    def follow(self, policy: Policy) -> None:
        """Decide by `policy` from the next look on. It is as enabled as the one before."""
        self._policy = policy
        self._decider = Decider(policy)

    async def run(
        self,
        report: Callable[[Event], None],
        run_in_thread: RunInThread,
        upload_bytes_per_s: Callable[[float], float | None],
    ) -> None:
        """Report a decision after every look, until cancelled; at once if the policy is not enabled.

        `upload_bytes_per_s`: what the stream measured lately, given the time; None: it had not enough to send.
        """
        clock = asyncio.get_running_loop().time
        while self._policy.enabled:
            reading, written_bytes = await run_in_thread(self._look)
            self.flash.count(written_bytes, clock())
            self.temperature_c = reading.temperature_c
            measured = upload_bytes_per_s(clock())
            reading = msgspec.structs.replace(
                reading,
                flash_left=self.flash.left,
                link_bytes_per_s=reading.link_bytes_per_s if measured is None else measured,
            )
            local = datetime.fromtimestamp(self._wall_clock(), self._time_zone)
            decision = self._decider.decide(reading, clock(), 60 * local.hour + local.minute)
            report(PaceDecided(decision, self.flash.stretch))
            await asyncio.sleep(self._policy.sample_s)

    def _look(self) -> tuple[Reading, int | None]:
        return self._board.read(self._state_dir), self._board.written_bytes()
