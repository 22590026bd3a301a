"""Many seeds, on every core: which fail, and how to see each again; and how many seeds notice each planted defect."""

import argparse
import logging
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed

from tests.simulation.fault_runs.mutants import MUTANTS, Mutant
from tests.simulation.fault_runs.plan import draw_plan
from tests.simulation.fault_runs.run import Outcome, run_seed

PROGRESS_S = 10.0
VIOLATIONS_SHOWN = 8
MUTANT_SEEDS = 50  # of a mutant's line in the table


def report(outcome: Outcome) -> str:
    """Return what a failed seed did wrong, in which world, and the command that replays it."""
    shown = outcome.violations[:VIOLATIONS_SHOWN]
    more = len(outcome.violations) - len(shown)
    return "\n".join(
        [
            f"seed {outcome.seed} failed, digest {outcome.digest}; again: make simulate FIRST={outcome.seed} SEEDS=1",
            *(f"  {violation}" for violation in shown),
            *([f"  and {more} more"] if more else []),
            *(f"  | {line}" for line in draw_plan(outcome.seed).describe().splitlines()),
        ]
    )


def caught_by(mutant: Mutant, seed: int) -> str | None:
    """Return the invariant that notices `mutant` in the run of `seed`, None if none does."""
    with mutant.planted():
        violations = run_seed(seed).violations
    return violations[0].invariant if violations else None


def run_seeds(first: int, count: int, jobs: int) -> int:
    """Run seeds and print what fails; return the exit code: 1 where anything did."""
    failed: list[int] = []
    began_s = said_s = time.monotonic()
    with _pool(jobs) as pool:
        done = as_completed([pool.submit(run_seed, seed) for seed in range(first, first + count)])
        for number, outcome in enumerate(_results(done), 1):
            if outcome.violations:
                failed.append(outcome.seed)
                print(report(outcome), flush=True)
            elif count == 1:
                print(f"seed {outcome.seed}: {outcome.updates} changes of models, digest {outcome.digest}")
            if time.monotonic() - said_s >= PROGRESS_S:
                said_s = time.monotonic()
                left_s = (said_s - began_s) / number * (count - number)
                print(f"{number} of {count} seeds, {len(failed)} failed, about {left_s:.0f} s left", flush=True)
    took_s = time.monotonic() - began_s
    print(f"{count} seeds from {first} on, {len(failed)} failed{_list(sorted(failed))}; {took_s:.0f} s")
    return 1 if failed else 0


def try_mutants(mutants: Sequence[Mutant], count: int, jobs: int) -> int:
    """Run mutants under the seeds 0 to `count` - 1 and print a table; return 1 where one is never noticed."""
    print("| defect | what it does | noticed by | first seed | of how many |\n|---|---|---|---|---|")
    missed = 0
    with _pool(jobs) as pool:
        for mutant in mutants:
            found = list(pool.map(_caught_by, [mutant.name] * count, range(count)))
            seeds = [seed for seed, invariant in enumerate(found) if invariant is not None]
            by = ", ".join(f"`{name}` {times}" for name, times in Counter(filter(None, found)).most_common())
            first = str(seeds[0]) if seeds else "none"
            print(
                f"| {mutant.name} | {mutant.says} | {by or 'nothing'} | {first} | {len(seeds)} of {count} |", flush=True
            )
            missed += not seeds
    return 1 if missed else 0


def _caught_by(name: str, seed: int) -> str | None:
    """Take the mutant by its name: its modules do not travel between processes."""
    return caught_by(next(mutant for mutant in MUTANTS if mutant.name == name), seed)


def _pool(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=_be_quiet)


def _be_quiet() -> None:
    logging.disable(logging.CRITICAL)  # of services that are killed every second


def _results(done: "Iterator[Future[Outcome]]") -> Iterator[Outcome]:
    for future in done:
        yield future.result()


def _list(seeds: Sequence[int]) -> str:
    return f": {', '.join(map(str, seeds))}" if seeds else ""


def _at_least_one(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{word}: must be at least 1")
    return number


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.fault_runs", description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="seed")
    parser.add_argument("--seeds", type=_at_least_one, default=None, help="how many; 100, or for mutants 50")
    parser.add_argument("--jobs", type=_at_least_one, default=len(os.sched_getaffinity(0)), help="processes")
    parser.add_argument("--mutants", action="store_true", help="plant every known defect and see who notices")
    names = [mutant.name for mutant in MUTANTS]
    parser.add_argument("--mutant", choices=names, metavar="NAME", help=f"plant this one only: {', '.join(names)}")
    options = parser.parse_args(arguments)
    if options.mutants or options.mutant:
        chosen = [mutant for mutant in MUTANTS if options.mutant in {None, mutant.name}]
        return try_mutants(chosen, options.seeds or MUTANT_SEEDS, options.jobs)
    return run_seeds(options.first, options.seeds or 100, options.jobs)
