"""Stage `guard`: whether an update may change the model, and whether its device is to be kept apart.

The entries are settings; `start` gives what judges. Shape, size and finite values are checked before, under every
entry, where payloads are read.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, log
from statistics import median, median_high
from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np
from msgspec import Meta
from msgspec.structs import replace

from skerry.algorithms.clipping import length_of
from skerry.algorithms.conduct import Conduct, Spread
from skerry.algorithms.direction import Direction
from skerry.vector import SparseVector

LENGTH_MIN, LENGTH_MAX = 1e-30, 1e30  # of an update whose logarithm is taken
LENGTH_DEVIATIONS = 3.5  # from the median, in the logarithm: what a fleet of uneven devices may always have
DIRECTION_UPDATES_MIN = 16.0  # before the region's direction means anything, however few devices there are
CHANCE_MAX = 1.6  # what noise's square cosine times its entries, 1 on average, stays below over a few updates
CHANCE_REGION_MIN = 10.0  # the region's median: below it, honest devices cannot be told from noise
TURN_SHARE = 0.25  # of the devices that have not left, each heard of at least once: a turn of the region
RECENT_TURNS = 16  # of the region, after which a device that was not heard of has left
PAIR_FACTOR = 10.0  # times the other's length, that an update counts for at most where there is a single other
CHANCE_LENGTH = log(0.5)  # noise that is shorter than this, against the median, does no harm

DevicesMin = Annotated[int, Meta(ge=3, le=100_000)]
Factor = Annotated[float, Meta(ge=1.0, le=1e6)]


class WellFormed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="well_formed"):
    """Every update of the right size and of finite values counts."""

    compares: ClassVar[bool] = False

    def start(self, size: int, tail: int, lines: Iterable[Conduct]) -> None:
        """Return None: nothing is compared."""


class Clip(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="clip"):
    """Updates that are longer than others' count as if they were not: norm clipping.

    Source: Sun et al. 2019, "Can You Really Backdoor Federated Learning?" (arXiv:1911.07963). Deviation: the bound is
    no number that somebody must know, but follows the median device.
    """

    compares: ClassVar[bool] = True
    refuses: ClassVar[bool] = False

    clip_factor: Factor = 2.0  # times the median device's length: what a longer update is shortened to
    devices_min: DevicesMin = 5  # that have sent something, before there is a median

    def start(self, size: int, tail: int, lines: Iterable[Conduct]) -> "Guard":
        """Return what judges: see `Outliers.start`."""
        return Guard(self, size, tail, lines)


class Outliers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="outliers"):
    """Refuse updates that are far too long, and keep devices apart whose updates stay strange.

    Our decision, after the norm bound of Sun et al. 2019 (arXiv:1911.07963) and the cosines of FLTrust (Cao et al.
    2021, arXiv:2012.13995), without the server's data that the latter needs. See decision record 0010.
    """

    compares: ClassVar[bool] = True
    refuses: ClassVar[bool] = True

    length_factor: Factor = 4.0  # times the median device's length, at least: a longer update is refused
    clip_factor: Factor | None = None  # as for `clip`; None: an update that is not refused counts whole
    strikes_max: Annotated[int, Meta(ge=1, le=1000)] = 4  # too long updates, less the others, before quarantine
    cosine_min: Annotated[float, Meta(ge=-1.0, le=0.0)] = -0.25  # usual one, below which a device points elsewhere,
    deviations: Annotated[float, Meta(ge=0.0, le=100.0)] = 3.0  # if it also is so far below the median device
    updates_min: Annotated[int, Meta(ge=1, le=1000)] = 8  # of a device, before its direction is judged
    devices_min: DevicesMin = 5  # that are known, before anything is judged
    share_max: Annotated[float, Meta(gt=0.0, le=0.5)] = 0.4  # of the devices, that may be in quarantine
    release_after: Annotated[int, Meta(ge=1, le=1_000_000)] | None = 50  # updates in order; None: by the operator alone

    def start(self, size: int, tail: int, lines: Iterable[Conduct]) -> "Guard":
        """Return what judges, for a model of `size` entries of which the last `tail` are not trainable.

        `lines`: what was known of devices at the last stop.
        """
        return Guard(self, size, tail, lines)


Part = Literal["length", "tail_length"]  # of an update, in a device's line
GuardRule = WellFormed | Clip | Outliers


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done with an update."""

    factor: float = 1.0  # what its weight is multiplied with, in (0, 1]
    refused: Literal["outlier", "quarantined"] | None = None  # None: it counts
    detail: str = ""  # why
    alarm: str = ""  # what an operator is to hear of; "": nothing


class Guard:
    """Judges one region's updates, in the order of their arrival."""

    def __init__(self, rule: Clip | Outliers, size: int, tail: int, lines: Iterable[Conduct]) -> None:
        """See `Outliers.start`."""
        self._rule = rule
        self._trainable = size - tail
        self._lines = {line.device: line for line in lines}
        self._taken = sum(line.taken for line in self._lines.values())
        self._lengths, self._tail_lengths, self._cosines, self._chances = Spread(), Spread(), Spread(), Spread()
        self._direction = Direction(self._trainable) if isinstance(rule, Outliers) else None
        self._warned = False  # that share_max is reached
        self._recent: dict[str, None] = {}  # devices that have not left, who was heard of last at the end
        self._turn = 0  # the region's turn that goes on
        self._in_turn: set[str] = set()  # devices that were heard of in it
        for line in sorted(self._lines.values(), key=lambda line: line.turn):
            self._turn = line.turn
            self._spread(line)
        self._forget()

    @property
    def quarantined(self) -> dict[str, str]:
        """The devices that are kept apart, and why."""
        return {line.device: line.quarantine for line in self._lines.values() if line.quarantine}

    def line(self, device: str) -> Conduct:
        """Return what is known of a device, as it is to be written down."""
        return self._lines.get(device) or Conduct(device)

    def release(self, device: str) -> bool:
        """Let a device's updates in again; say whether they were not."""
        line = self._lines.get(device)
        if line is None or not line.quarantine:
            return False
        self._write(replace(_released(line), turn=self._turn))
        return True

    def judge(self, device: str, update: SparseVector) -> Verdict:
        """Say what to do with an update, a difference, which is about to change the model unless this says no."""
        rule = self._rule
        split = int(np.searchsorted(update.indices, self._trainable))
        indices, values = update.indices[:split], update.values[:split]
        length, line = length_of(values), self.line(device)
        head, tail = _logarithm(length), _logarithm(length_of(update.values[split:]))
        excess = max(
            self._excess(device, head, self._lengths, "length"),
            self._excess(device, tail, self._tail_lengths, "tail_length"),
        )
        line = replace(line.after_length(head, tail), turn=self._turn)
        known = len(self._lengths) >= rule.devices_min
        if self._direction is not None and length > 0.0 and known:
            line = self._look(line, self._direction.cosine(indices, values, length), split)
        verdict, line = self._decide(line, excess, known=known)
        if verdict.refused is None:
            self._taken += 1
            line = replace(line, taken=line.taken + 1)
            if self._direction is not None and length > 0.0:
                share = min(1.0, self._taken / (max(1, len(self._lines)) * line.taken))  # nobody counts more than most
                memory = max(DIRECTION_UPDATES_MIN, 2.0 * len(self._recent))
                self._direction.turn(indices, values, length, share, memory)
        self._write(line)
        if line.length is not None:
            self._count(device)
        return verdict

    def _look(self, line: Conduct, cosine: float | None, entries: int) -> Conduct:
        assert self._direction is not None
        needed = max(DIRECTION_UPDATES_MIN, len(self._recent)) / 2.0
        if cosine is None or self._direction.updates < needed:
            return line
        return line.after_direction(cosine, entries)

    def _decide(self, line: Conduct, excess: float, *, known: bool) -> tuple[Verdict, Conduct]:
        """Return the verdict, and the line after it; `excess`: see `_excess`."""
        rule = self._rule
        if line.quarantine and not known:
            alone = self._among_the_quarantined(line, rule)
            return (Verdict(refused="quarantined", detail=line.quarantine), line) if alone is None else alone
        if not known:
            return Verdict(factor=min(1.0, 1.0 / excess)), line
        factor = 1.0 if rule.clip_factor is None else min(1.0, rule.clip_factor / excess)
        if not isinstance(rule, Outliers):
            return Verdict(factor), line
        limit = max(rule.length_factor, exp(LENGTH_DEVIATIONS * self._lengths.middle()[1]))
        too_long = excess > limit
        line = replace(line, strikes=line.strikes + 1 if too_long else max(0, line.strikes - 1))
        strange = self._strange(line, rule)
        if line.quarantine:
            if not (too_long or self._directed(line, rule)):
                return Verdict(refused="quarantined", detail=line.quarantine), line
            return self._in_quarantine(line, rule, conspicuous=too_long or bool(strange))
        if line.strikes >= rule.strikes_max:
            strange = f"{line.strikes} updates too long, the last {excess:.3g} times as long as the median device's"
        if strange:
            verdict, line = self._put_away(line, rule, strange)
            if verdict.refused:
                return verdict, line
        else:
            verdict = Verdict()
        if too_long:
            detail = f"{excess:.3g} times as long as the median device's, at most {limit:.3g} times is let in"
            return Verdict(refused="outlier", detail=detail, alarm=verdict.alarm), line
        return Verdict(factor, alarm=verdict.alarm), line

    def _directed(self, line: Conduct, rule: Outliers) -> bool:
        """Say whether enough is known of directions to judge this device's."""
        return line.cosines >= rule.updates_min and len(self._cosines) >= rule.devices_min

    def _strange(self, line: Conduct, rule: Outliers) -> str:
        """Say what is strange about a device's usual direction, "": nothing."""
        if not self._directed(line, rule):
            return ""
        centre, sigma = self._cosines.middle()
        if line.cosine < rule.cosine_min and line.cosine < centre - rule.deviations * sigma:
            return f"its updates point away from the region's: cosine {line.cosine:.2f}, median device {centre:.2f}"
        chance, usual = line.chance, self._chances.middle()[0]
        harmful = line.length is not None and line.length > self._lengths.middle()[0] + CHANCE_LENGTH
        if chance < CHANCE_MAX and usual > CHANCE_REGION_MIN and harmful:
            return f"its updates point nowhere, as noise does: {chance:.1f} where chance gives 1 and others {usual:.1f}"
        return ""

    def _put_away(self, line: Conduct, rule: Outliers, why: str) -> tuple[Verdict, Conduct]:
        away = sum(bool(self._lines[name].quarantine) for name in self._recent if name != line.device)
        devices = len(self._recent | {line.device: None})
        if away + 1 > rule.share_max * devices:
            warned, self._warned = self._warned, True
            alarm = f"would be in quarantine, were not {away} of {devices} devices there already: {why}"
            return Verdict(alarm="" if warned else alarm), line
        alarm = f"in quarantine from now on: {why}"
        return Verdict(refused="quarantined", detail=why, alarm=alarm), replace(line, quarantine=why, in_order=0)

    def _in_quarantine(self, line: Conduct, rule: Outliers, *, conspicuous: bool) -> tuple[Verdict, Conduct]:
        line = replace(line, in_order=0 if conspicuous else line.in_order + 1)
        if rule.release_after is not None and line.in_order >= rule.release_after:
            alarm = f"let in again after {line.in_order} updates in order; it was kept apart because {line.quarantine}"
            line = _released(line)
            return Verdict(refused="quarantined", detail="the last one: the next update counts", alarm=alarm), line
        return Verdict(refused="quarantined", detail=line.quarantine), line

    def _among_the_quarantined(self, line: Conduct, rule: Clip | Outliers) -> tuple[Verdict, Conduct] | None:
        """Judge a device in quarantine by all others, where those who put it there have left; None: there are few."""
        lengths = self._lengths_of_all("length")
        if len(lengths) < rule.devices_min or line.length is None or not isinstance(rule, Outliers):
            return None
        away = line.cosines >= rule.updates_min and line.cosine < rule.cosine_min
        too_long = exp(line.length - median(lengths)) > rule.length_factor
        return self._in_quarantine(line, rule, conspicuous=away or too_long)

    def _lengths_of_all(self, part: Part) -> list[float]:
        """Return the logarithms of the usual lengths of all that have not left, those in quarantine too."""
        known = (getattr(self._lines[name], part) for name in self._recent)
        return [length for length in known if length is not None]

    def _excess(self, device: str, length: float | None, lengths: Spread, part: Part) -> float:
        """Return how many times as long as the median device's an update is, > 0; `length` is a logarithm.

        While `lengths` has fewer than `devices_min` devices: as the median of all that have not left, where these are
        enough; else as the median of the others', of two the longer; or 1 where there is none. Nothing that the device
        itself has sent lets its next update count for more.
        """
        if length is None:
            return LENGTH_MIN
        if len(lengths) >= self._rule.devices_min:
            return exp(length - lengths.middle()[0])
        everybody = self._lengths_of_all(part)
        if len(everybody) >= self._rule.devices_min:
            return exp(length - median(everybody))
        others = lengths.of_others(device)
        if not others:
            return 1.0
        return exp(length - median_high(others)) / (PAIR_FACTOR if len(others) == 1 else 1.0)

    def _write(self, line: Conduct) -> None:
        self._lines[line.device] = line
        self._spread(line)

    def _count(self, device: str) -> None:
        """Let a device count in the turn, once however much it sends; the turn ends when enough have."""
        self._in_turn.add(device)
        if len(self._in_turn) >= max(self._rule.devices_min, TURN_SHARE * len(self._recent)):
            self._turn += 1
            self._in_turn.clear()
            self._forget()

    def _forget(self) -> None:
        """Leave devices that were not heard of for long out of what the others are compared with."""
        while self._recent and self._lines[oldest := next(iter(self._recent))].turn < self._turn - RECENT_TURNS:
            del self._recent[oldest]
            for spread in (self._lengths, self._tail_lengths, self._cosines, self._chances):
                spread.drop(oldest)

    def _spread(self, line: Conduct) -> None:
        """Bring the region's figures up to date; those in quarantine have no part in them."""
        self._recent.pop(line.device, None)
        self._recent[line.device] = None
        device, apart = line.device, bool(line.quarantine)
        directed = line.cosines > 0
        for spread, value in (
            (self._lengths, line.length),
            (self._tail_lengths, line.tail_length),
            (self._cosines, line.cosine if directed else None),
            (self._chances, line.chance if directed else None),
        ):
            if apart or value is None:
                spread.drop(device)
            else:
                spread.put(device, value)


def _logarithm(length: float) -> float | None:
    return log(min(max(length, LENGTH_MIN), LENGTH_MAX)) if length > 0.0 else None


def _released(line: Conduct) -> Conduct:
    """Return the line of a device whose updates count again; its direction is judged anew."""
    return replace(line, quarantine="", in_order=0, strikes=0, cosines=0, cosine=0.0, chance=1.0)
