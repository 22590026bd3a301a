"""Stage `optimizer`: how a local step follows its gradient."""

from math import sqrt
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from skerry.algorithms.clipping import clip_factor
from skerry.vector import Float32

BLOCK = 1 << 15  # entries handled at once: a block of each vector stays in a core's cache, and numpy's calls pay off

Momentum = Annotated[float, Meta(ge=0.0, lt=1.0)]
WeightDecay = Annotated[float, Meta(ge=0.0, le=1.0)]
Norm = Annotated[float, Meta(gt=0.0, le=1e9)]


class Sgd(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="sgd"):
    """Stochastic gradient descent with momentum and coupled weight decay, as torch.optim.SGD without dampening.

    Defaults: the experiments of Spyker (2024, arXiv:2406.01439).
    """

    momentum: Momentum = 0.1
    weight_decay: WeightDecay = 1e-4
    nesterov: bool = False
    clip_norm: Norm | None = None  # the longest gradient, before weight decay; None: any

    def __post_init__(self) -> None:
        """Check what one key alone cannot say."""
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov needs momentum above 0")

    def start(self, size: int) -> "SgdState":
        """Return the state of a run over `size` trainable parameters, at rest."""
        return SgdState(self, size)


class Adam(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="adam"):
    """Steps of about the same length for every parameter, as torch.optim.Adam; `decoupled`: as torch.optim.AdamW.

    Source: Adam (Kingma and Ba 2015, arXiv:1412.6980); AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101).
    """

    beta1: Momentum = 0.9
    beta2: Momentum = 0.999
    epsilon: Annotated[float, Meta(ge=1e-12, le=1.0)] = 1e-8
    weight_decay: WeightDecay = 0.0
    decoupled: bool = False  # weight decay shrinks the parameters, instead of being added to the gradient
    clip_norm: Norm | None = None  # the longest gradient, before weight decay; None: any

    def start(self, size: int) -> "AdamState":
        """Return the state of a run over `size` trainable parameters, at rest."""
        return AdamState(self, size)


class SgdState:
    """The velocity of one run. Every run starts at rest: momentum of another base points elsewhere."""

    def __init__(self, rule: Sgd, size: int) -> None:
        self._rule = rule
        self._size = size
        self._velocity = np.zeros(size if rule.momentum else 0, np.float32)
        self._direction, self._move = np.empty((2, min(size, BLOCK)), np.float32)

    def step(self, parameters: Float32, gradient: Float32, learning_rate: float) -> None:
        """Move `parameters` in place: g' = clip(g) + decay w; v = momentum v + g'; w -= learning_rate v.

        Nesterov: w -= learning_rate (g' + momentum v).

        Args:
            parameters: float32, at least `size` entries; those behind are no parameters and stay as they are.
            gradient: float32, shape (size,); left alone.
            learning_rate: of this step, >= 0.
        """
        assert gradient.shape == (self._size,)
        assert len(parameters) >= self._size
        clip = clip_factor(gradient, self._rule.clip_norm)
        with np.errstate(over="ignore", invalid="ignore"):  # a run that diverges shows in its loss and its difference
            for start in range(0, self._size, BLOCK):
                block = slice(start, min(start + BLOCK, self._size))
                self._step(parameters[block], gradient[block], learning_rate, clip, block)

    def _step(self, parameters: Float32, gradient: Float32, learning_rate: float, clip: float, block: slice) -> None:
        rule, move = self._rule, self._move[: len(gradient)]
        towards = _direction(parameters, gradient, clip, rule.weight_decay, self._direction[: len(gradient)], move)
        if rule.momentum:
            velocity = self._velocity[block]
            velocity *= rule.momentum
            velocity += towards
            if rule.nesterov:
                np.multiply(velocity, rule.momentum, out=move)
                move += towards
                towards = move
            else:
                towards = velocity
        np.multiply(towards, learning_rate, out=move)
        parameters -= move


class AdamState:
    """The moments of one run. Every run starts at rest, as that of `Sgd`."""

    def __init__(self, rule: Adam, size: int) -> None:
        self._rule = rule
        self._size = size
        self._steps = 0
        # Sums rather than means: the mean gradient is (1 - beta1) first, the mean square (1 - beta2) second. What turns
        # one into the other is one number for all entries, so that it costs no pass over a vector.
        self._first, self._second = np.zeros((2, size), np.float32)
        self._direction, self._move = np.empty((2, min(size, BLOCK)), np.float32)

    def step(self, parameters: Float32, gradient: Float32, learning_rate: float) -> None:
        """Move `parameters` in place, in step t from 1: w -= learning_rate m / (sqrt(v) + epsilon).

        m and v are the running means of g' = clip(g) + decay w and of its square, divided by 1 - beta^t. Decoupled:
        g' = clip(g), and w is multiplied by 1 - learning_rate decay first. Arguments: see `SgdState.step`.
        """
        assert gradient.shape == (self._size,)
        assert len(parameters) >= self._size
        rule = self._rule
        self._steps += 1
        root = sqrt((1.0 - rule.beta2) / (1.0 - rule.beta2**self._steps))
        length = learning_rate * (1.0 - rule.beta1) / (1.0 - rule.beta1**self._steps) / root
        shrinkage = 1.0 - learning_rate * rule.weight_decay if rule.decoupled else 1.0
        clip = clip_factor(gradient, rule.clip_norm)
        with np.errstate(over="ignore", invalid="ignore"):  # as in SgdState.step
            for start in range(0, self._size, BLOCK):
                block = slice(start, min(start + BLOCK, self._size))
                entries = parameters[block]
                self._follow(entries, gradient[block], clip, block)
                if shrinkage != 1.0:
                    entries *= shrinkage
                entries -= self._scaled(block, length, rule.epsilon / root)

    def _follow(self, parameters: Float32, gradient: Float32, clip: float, block: slice) -> None:
        """Take one block's gradient into the moments."""
        rule, move = self._rule, self._move[: len(gradient)]
        decay = 0.0 if rule.decoupled else rule.weight_decay
        towards = _direction(parameters, gradient, clip, decay, self._direction[: len(gradient)], move)
        first, second = self._first[block], self._second[block]
        first *= rule.beta1
        first += towards
        second *= rule.beta2
        np.multiply(towards, towards, out=move)
        second += move

    def _scaled(self, block: slice, length: float, epsilon: float) -> Float32:
        """Return length first / (sqrt(second) + epsilon) of one block."""
        first = self._first[block]
        move = np.sqrt(self._second[block], out=self._move[: len(first)])
        move += epsilon
        np.divide(first, move, out=move)
        move *= length
        return move


Optimizer = Sgd | Adam


def _direction(
    parameters: Float32, gradient: Float32, clip: float, decay: float, out: Float32, scratch: Float32
) -> Float32:
    """Return clip gradient + decay parameters, all of one shape: in `out`, or the gradient itself where it is that."""
    if clip != 1.0:
        gradient = np.multiply(gradient, clip, out=out)
    if decay:
        np.multiply(parameters, decay, out=scratch)
        gradient = np.add(gradient, scratch, out=out)
    return gradient
