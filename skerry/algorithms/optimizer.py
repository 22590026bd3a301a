"""Stage `optimizer`: how a local step follows its gradient."""

from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from skerry.vector import Float32

BLOCK = 1 << 15  # entries handled at once: parameters, gradient and velocity of a block stay in a core's cache


class Sgd(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="sgd"):
    """Stochastic gradient descent with momentum and coupled weight decay, as torch.optim.SGD without dampening.

    Defaults: the experiments of Spyker (2024, arXiv:2406.01439).
    """

    momentum: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.1
    weight_decay: Annotated[float, Meta(ge=0.0, le=1.0)] = 1e-4
    nesterov: bool = False

    def __post_init__(self) -> None:
        """Check what one key alone cannot say."""
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov needs momentum above 0")

    def start(self, size: int) -> "SgdState":
        """Return the state of a run over `size` trainable parameters, at rest."""
        return SgdState(self, size)


class SgdState:
    """The velocity of one run. Every run starts at rest: momentum of another base points elsewhere."""

    def __init__(self, rule: Sgd, size: int) -> None:
        self._rule = rule
        self._size = size
        self._velocity = np.zeros(size if rule.momentum else 0, np.float32)
        self._scratch = np.empty(min(size, BLOCK), np.float32)

    def step(self, parameters: Float32, gradient: Float32, learning_rate: float) -> None:
        """Move `parameters` in place: g' = g + decay w; v = momentum v + g'; w -= learning_rate v.

        Nesterov: w -= learning_rate (g' + momentum v).

        Args:
            parameters: float32, at least `size` entries; those behind are no parameters and stay as they are.
            gradient: float32, shape (size,); left alone.
            learning_rate: of this step, >= 0.
        """
        assert gradient.shape == (self._size,)
        assert len(parameters) >= self._size
        rate = np.float32(learning_rate)
        for start in range(0, self._size, BLOCK):
            block = slice(start, min(start + BLOCK, self._size))
            move = self._scratch[: block.stop - start]
            self._direct(move, parameters[block], gradient[block], block)
            move *= rate
            parameters[block] -= move

    def _direct(self, move: Float32, parameters: Float32, gradient: Float32, block: slice) -> None:
        """Write the direction of one block's step to `move`."""
        np.multiply(parameters, np.float32(self._rule.weight_decay), out=move)
        move += gradient
        momentum = np.float32(self._rule.momentum)
        if momentum == 0.0:
            return
        velocity = self._velocity[block]
        velocity *= momentum
        velocity += move
        if self._rule.nesterov:
            move += momentum * velocity
        else:
            move[:] = velocity


Optimizer = Sgd
