"""Stage `uplink`: which entries of a model difference leave the device. Pure numpy.

Every entry chooses from U = difference + residual; `error_feedback` keeps what was not chosen.
"""

from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np
from msgspec import Meta

from skerry.algorithms.flare import push_towards
from skerry.algorithms.top_k import largest_of_all, largest_per_tensor
from skerry.values import ValueEncoding
from skerry.vector import Float32, Layout, SparseVector

Density = Annotated[float, Meta(gt=0.0, le=1.0)]
Scope = Literal["tensor", "global"]  # whether tensors compete with one another for the entries that are sent


class _Unpushed:
    """An uplink whose local steps are drawn nowhere."""

    __slots__ = ()

    push_steps: ClassVar[int] = 0

    def push(
        self,
        step: int,
        parameters: Float32,
        base: Float32,
        residual: Float32,
        layout: Layout,
        learning_rate: float,
        uploads: int,
    ) -> None:
        """Leave the parameters alone."""


class TopK(_Unpushed, msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="top_k"):
    """The entries of largest magnitude and the whole untrainable tail; the rest waits in the residual.

    Source: sparsified SGD with memory (Stich et al. 2018, arXiv:1809.07599).
    """

    density: Density = 0.02  # share of the trainable entries that is sent
    scope: Scope = "tensor"  # the share of every tensor, at least one entry each, or of all together
    values: ValueEncoding = ValueEncoding.INT8  # float16 where the model has an untrainable tail
    return_unapplied: bool = True  # what the coordinator's weight left out returns to the residual

    whole: ClassVar[bool] = False

    def compress(self, total: Float32, layout: Layout) -> SparseVector:
        """Choose entries of `total`, finite float32 of shape (layout.size,), with their exact values."""
        return _top_k(total, layout, self.density, self.scope)


class Dense(_Unpushed, msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="dense"):
    """Every entry. With values other than float32 the rounding error waits in the residual, else nothing does."""

    values: ValueEncoding = ValueEncoding.FLOAT32
    return_unapplied: bool = False  # as the published methods that send everything

    whole: ClassVar[bool] = False

    def compress(self, total: Float32, layout: Layout) -> SparseVector:
        """Return all of `total`."""
        return SparseVector.full(total)


class Flare(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="flare"):
    """Top-k whose first local steps are drawn towards what was not sent, so that it is not unlearnt.

    The loss of the first `push_steps` steps gains tau * sum(mask * |w - (base + residual)|), tau = strength /
    decay^(t + 1). Source: FLARE (2023, arXiv:2312.13795) and its released code. Deviation: t counts the device's own
    uploads, since there are no rounds.
    """

    density: Density = 0.01
    scope: Scope = "tensor"
    values: ValueEncoding = ValueEncoding.FLOAT16
    return_unapplied: bool = True
    strength: Annotated[float, Meta(ge=0.0, le=1e6)] = 0.5  # TAU
    decay: Annotated[float, Meta(ge=1.0, le=10.0)] = 1.05  # c
    push_steps: Annotated[int, Meta(ge=1, le=1000)] = 1  # p

    whole: ClassVar[bool] = False

    def compress(self, total: Float32, layout: Layout) -> SparseVector:
        """Choose entries of `total`, finite float32 of shape (layout.size,), with their exact values."""
        return _top_k(total, layout, self.density, self.scope)

    def push(
        self,
        step: int,
        parameters: Float32,
        base: Float32,
        residual: Float32,
        layout: Layout,
        learning_rate: float,
        uploads: int,
    ) -> None:
        """Move the masked entries of `parameters` towards base + residual, in place.

        Args:
            step: of this run, from 0; nothing happens from `push_steps` on.
            parameters: float32 of shape (layout.size,).
            base: same shape; what the run started from, or merged last.
            residual: same shape; decides the mask.
            layout: where the tensors lie.
            learning_rate: of this step.
            uploads: of this device so far.
        """
        tau = self.strength * self.decay ** -(uploads + 1.0)
        if step < self.push_steps and tau > 0.0:
            push_towards(parameters, base, residual, layout, learning_rate * tau)


class WholeModel(
    _Unpushed, msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="whole_model"
):
    """The model that the device trained, not its difference to the base; the coordinator moves its own towards it.

    Source: FedAsync (Xie et al. 2019, arXiv:1903.03934), whose server mixes W <- (1 - a) W + a w. Nothing waits in the
    residual, and nothing returns to it: what is not applied of a model is no debt.
    """

    whole: ClassVar[bool] = True
    values: ClassVar[ValueEncoding] = ValueEncoding.FLOAT32
    return_unapplied: ClassVar[bool] = False

    def compress(self, total: Float32, layout: Layout) -> SparseVector:
        """Return all of `total`."""
        return SparseVector.full(total)


Uplink = TopK | Dense | Flare | WholeModel


def _top_k(total: Float32, layout: Layout, density: float, scope: Scope) -> SparseVector:
    choose = largest_per_tensor if scope == "tensor" else largest_of_all
    tail = np.arange(layout.trainable_size, layout.size, dtype=np.int64)
    indices = np.concatenate((choose(total, layout, density), tail))  # half a statistic is none: the tail goes whole
    return SparseVector(layout.size, indices, total[indices])
