"""Reads mutated inputs until one does what it may not: another error, too much memory, too much time.

An input that is answered in a way not seen before is mutated further, so that checks behind checks are reached.

    python -m tests.fuzz --minutes 60          all targets in turn, from a seed of its own
    python -m tests.fuzz --replay FILE         what a run before has kept; the file's name begins with the target's
"""

import argparse
import hashlib
import random
import re
import resource
import tempfile
import time
import traceback
import tracemalloc
import warnings
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.targets import Target, targets

ADDRESS_SPACE_BYTES = 1 << 30  # that the process may take beside what it has when it begins
TRACED_EVERY = 64  # inputs: tracing memory takes long
MEMORY_BYTES = 8 << 20  # for an input, besides
MEMORY_TIMES = 64  # its length
PROCESSOR_S = 5.0  # for one input
BATCH = 1000  # inputs of a target of cost 1, before it is the next one's turn
CORPUS_MAX = 500  # inputs of a target
FIGURES = re.compile(r"0x[0-9a-f]+|\d+|'[^']*'|`[^`]*`")
INTERESTING = (b"\x00", b"\x7f", b"\x80", b"\xff", b"\xc1", bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff" * 8)
TEXTS = (
    b"nan",
    b"-1",
    b"1e999",
    b'"',
    b"[",
    b"{",
    b"[[",
    b"]",
    b"\n",
    b"=",
    b"true",
    b"99999999999999999999",
    b"\\u0000",
)


class Defect(Exception):  # noqa: N818 - the word for what is found
    """An input that was answered as none may be."""

    def __init__(self, target: str, data: bytes, what: str) -> None:
        super().__init__(f"{target}: {what}")
        self.target, self.data = target, data


def mutated(corpus: list[bytes], rng: random.Random, bytes_max: int) -> bytes:
    """Return one of `corpus`, changed in one to six places."""
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(7):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + rng.randint(0, 4)] = rng.choice(INTERESTING)
            case 2:
                data[at : at + rng.randint(0, 8)] = rng.choice(TEXTS)
            case 3:
                del data[at : at + rng.randint(1, 16)]
            case 4:
                data[at:at] = data[at : at + rng.randint(1, 64)] * rng.choice([1, 1, 2, 50])
            case 5:
                other = rng.choice(corpus)
                start = rng.randrange(len(other) + 1)
                data[at : at + rng.randint(0, 32)] = other[start : start + rng.randint(1, 64)]
            case _:
                data[at : at + 4] = rng.randbytes(rng.randint(0, 6))
    if rng.random() < 0.05:
        del data[rng.randrange(len(data) + 1) :]
    return bytes(data[:bytes_max])


def answer(name: str, target: Target, data: bytes, *, traced: bool) -> str:
    """Have the target read `data`; return in which way it answered, figures aside.

    Raises:
        Defect: it did what it may not.
    """
    begun_s = time.process_time()
    if traced:
        tracemalloc.start()
    try:
        target.read(data)
        outcome = "read"
    except target.refusal as error:
        outcome = FIGURES.sub("#", str(error))[:100]
    except Exception as error:
        raise Defect(name, data, "".join(traceback.format_exception(error))) from error
    finally:
        peak = tracemalloc.get_traced_memory()[1] if traced else 0
        tracemalloc.stop()
    if peak > MEMORY_BYTES + MEMORY_TIMES * len(data):
        raise Defect(name, data, f"{peak} bytes of memory for {len(data)} of input")
    if (took_s := time.process_time() - begun_s) > PROCESSOR_S:
        raise Defect(name, data, f"{took_s:.1f} s for {len(data)} bytes of input")
    return outcome


def fuzz(chosen: dict[str, Target], rng: random.Random) -> Iterator[tuple[str, int]]:
    """Go round the targets for ever; yield after each batch the target's name and how many ways of answering it has.

    Raises:
        Defect: one was found.
    """
    corpora = {name: list(target.begin) for name, target in chosen.items()}
    answers: dict[str, set[str]] = {name: set() for name in chosen}
    for name, target in chosen.items():
        outcomes = [answer(name, target, data, traced=True) for data in target.begin]
        assert "read" in outcomes, f"{name}: none of the inputs to begin from can be read: {outcomes}"
    while True:
        for name, target in chosen.items():
            for count in range(max(1, BATCH // target.cost)):
                data = mutated(corpora[name], rng, target.bytes_max)
                outcome = answer(name, target, data, traced=count % TRACED_EVERY == 0)
                if outcome not in answers[name]:
                    answers[name].add(outcome)
                    if len(corpora[name]) < CORPUS_MAX:
                        corpora[name].append(data)
            yield name, len(answers[name])


def main(arguments: list[str]) -> int:
    """Run; return the exit status: 1 where a defect was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--rounds", type=int, help="instead: through all targets so often")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--target", action="append", help="only this one; may be repeated")
    parser.add_argument("--replay", type=Path, help="an input that was kept")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"), help="where inputs are kept")
    options = parser.parse_args(arguments)
    used = resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE_BYTES, resource.RLIM_INFINITY))
    warnings.simplefilter("error")  # what a library complains of, it may refuse one day, or act upon
    with tempfile.TemporaryDirectory() as folder:
        every = targets(Path(folder))
        try:
            if options.replay is not None:
                name = options.replay.name.rpartition(".")[0]
                print(answer(name, every[name], options.replay.read_bytes(), traced=True))
                return 0
            chosen = {name: every[name] for name in options.target or every}
            print(f"seed {options.seed}, {len(chosen)} targets", flush=True)
            end_s = time.monotonic() + 60.0 * (options.minutes or 0.0)
            done, answers = 0, dict.fromkeys(chosen, 0)
            for name, count in fuzz(chosen, random.Random(options.seed)):
                done += 1
                answers[name] = count
                rounds = done / len(chosen)
                if rounds >= options.rounds if options.rounds else time.monotonic() >= end_s:
                    break
            shown = ", ".join(f"{name} {count}" for name, count in answers.items())
            print(f"no defect in {done} batches; ways of answering: {shown}")
        except Defect as defect:
            options.out.mkdir(parents=True, exist_ok=True)
            path = options.out / f"{defect.target}.{hashlib.sha256(defect.data).hexdigest()[:12]}"
            path.write_bytes(defect.data)
            print(f"{defect}\nreplay it: python -m tests.fuzz --replay {path}")
            return 1
    return 0
