"""Each step and each piece of work of the agent's threads is watched while it lasts, and no longer."""

import time
from collections.abc import Iterator

from edge_agent.threads import TrainingThread, WorkThreads
from skerry.under_way import UnderWay


async def test_a_step_is_watched_and_a_rest_is_not() -> None:
    under_way = UnderWay(time.monotonic)
    seen: list[str | None] = []

    class Rests(list[None]):
        """What the thread rests for is asked for its truth between two steps."""

        def __bool__(self) -> bool:
            seen.append(under_way.stuck(1e12))
            return False

    def pauses() -> Iterator[float | None]:
        for _ in range(2):
            seen.append(under_way.stuck(1e12))
            yield Rests()  # type: ignore[misc]

    thread = TrainingThread(under_way=under_way)
    assert await thread.run(pauses())
    thread.close()
    assert [one is None for one in seen] == [False, True, False, True]
    assert str(seen[0]).startswith("a local step has not ended")
    assert under_way.stuck(1e12) is None


async def test_short_work_is_watched_by_the_name_of_its_threads() -> None:
    under_way = UnderWay(time.monotonic)
    threads = WorkThreads(1, "skerry-side", under_way=under_way)
    assert str(await threads(lambda: under_way.stuck(1e12))).startswith("work of skerry-side has not ended")
    threads.close()
    assert under_way.stuck(1e12) is None
