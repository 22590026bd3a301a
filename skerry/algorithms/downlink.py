"""Stage `downlink`: which entries of the region's model reach its devices, and how often. Settings only.

The devices of a region hold one *offered model*: under `newest` the region's own, under `top_k` one that follows it.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from skerry.values import ValueEncoding

Cycles = Annotated[float, Meta(ge=0.0, le=1000.0)]
Seconds = Annotated[float, Meta(ge=0.0, le=86400.0)]


class Newest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="newest"):
    """Every value that changed, as float32: each device catches up with the region's model whenever it is offered one.

    Not after every update: a device that answers often would be sent one model per answer, each nearly the same.
    """

    answer_cycles: Cycles = 0.5  # since the last offer, when the device has just delivered an update
    interval_cycles: Cycles = 1.0  # since the last offer, when it has not


class TopK(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="top_k"):
    """Little and often: the entries in which the offered model is furthest from the region's, several times a cycle.

    What matters about a model that devices train on is that it is fresh, not that it is complete (decision 9). An entry
    that was not sent is not lost: it stays between the two models and goes later. The whole untrainable tail goes
    every time, and where there is one all values are float32, since statistics may be of any size.

    Source: a model that devices hold and the server follows with compressed differences, as in EF21-BC (Fatkhullin et
    al. 2021, arXiv:2110.03294) and MCM (Philippenko and Dieuleveut 2021, arXiv:2102.12528). Deviations: it is one for
    all devices of a region, it moves by time instead of by rounds, and entries are set, not added to.
    """

    density: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.012  # share of the trainable entries that go each time
    values: ValueEncoding = ValueEncoding.FLOAT16
    interval_cycles: Cycles = 0.5  # of the region's cycle time, from one time to the next
    interval_min_s: Seconds = 0.1  # however short the cycle: bounds messages, and the work of choosing entries

    def interval_s(self, cycle_s: float) -> float:
        """Return the seconds from one time to the next."""
        return max(self.interval_cycles * cycle_s, self.interval_min_s)

    def __post_init__(self) -> None:
        """Check what one key alone cannot say."""
        if self.values is ValueEncoding.INT8:
            raise ValueError("values is int8, which is too coarse for values that are set: use float16 or float32")


Downlink = Newest | TopK
