"""What a step minimises and an evaluation sums. The gate cannot tell: what it compares with has the same losses."""

import numpy as np
import pytest

from skerry.tasks.manifest import IGNORED, Label

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from torch.nn import functional  # noqa: E402 - behind importorskip

from skerry.training.losses import loss_sums, mean_loss  # noqa: E402


def test_cross_entropy_is_torch_s_own_and_counts_what_is_scored() -> None:
    torch.manual_seed(0)
    logits, y = torch.randn(5, 3, 4), torch.randint(0, 4, (5, 3))
    y[0] = logits[0].argmax(1)
    y[1, :2] = IGNORED
    label = Label(classes=4, shape=(3,))
    flat = logits.reshape(-1, 4), y.reshape(-1)
    loss, right, scored = loss_sums(label, logits, y)
    assert float(loss) == pytest.approx(float(functional.cross_entropy(*flat, reduction="sum")), rel=1e-6)
    assert int(right) == int((flat[0].argmax(1) == flat[1]).sum()) >= 3
    assert int(scored) == 13
    assert float(mean_loss(label, logits, y)) == pytest.approx(float(functional.cross_entropy(*flat)), rel=1e-6)


def test_a_batch_with_nothing_to_score_has_no_loss() -> None:
    label = Label(classes=4)
    sums = loss_sums(label, torch.randn(3, 4), torch.full((3,), IGNORED))
    assert [float(value) for value in sums] == [0.0, 0.0, 0.0]
    assert float(mean_loss(label, torch.randn(3, 4), torch.full((3,), IGNORED))) == 0.0


def test_squares_are_never_right_and_their_mean_is_over_all_values() -> None:
    logits, y = torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    label = Label(loss="mse", shape=(2,))
    assert [float(value) for value in loss_sums(label, logits, y)] == [5.0, 0.0, 4.0]
    assert float(mean_loss(label, logits, y)) == 1.25


def test_a_value_between_0_and_1_is_right_on_its_side_of_one_half() -> None:
    logits, y = torch.tensor([[2.0, 2.0, -2.0, -2.0]]), torch.tensor([[0.7, 0.3, 0.3, 1.0]])
    label = Label(loss="bce_with_logits", shape=(4,))
    loss, right, scored = loss_sums(label, logits, y)
    chance = 1.0 / (1.0 + np.exp(-logits.numpy()))
    expected = -(y.numpy() * np.log(chance) + (1.0 - y.numpy()) * np.log(1.0 - chance)).sum()
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert (int(right), int(scored)) == (2, 4)
    assert float(mean_loss(label, logits, y)) == pytest.approx(float(expected) / 4, rel=1e-5)
