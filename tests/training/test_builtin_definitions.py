"""The built-in tasks as torch models: of the promised sizes, and the same whenever they are made."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from skerry.errors import DataError
from skerry.tasks.builtin.catalogue import TASKS
from skerry.tasks.builtin.folder import DataFile, Folder
from skerry.tasks.builtin.wikitext2 import Texts

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from skerry.training.builtin import mnist, texts  # noqa: E402 - they need torch
from skerry.training.builtin.definitions import DEFINITIONS, builtin_definition  # noqa: E402
from skerry.training.definition import TaskDefinition  # noqa: E402

WITHOUT_DATA = [name for name, task in TASKS.items() if not task.needs_data]


def parameters_of(definition: TaskDefinition) -> int:
    return sum(parameter.numel() for parameter in definition.model.parameters())


def example_of(definition: TaskDefinition, examples: int) -> Any:
    generator = torch.Generator().manual_seed(4)
    shape = (examples, *definition.input.shape)
    if definition.input.values_below is None:
        return torch.randn(shape, generator=generator)
    return torch.randint(0, definition.input.values_below, shape, generator=generator)


@pytest.fixture
def small_text(tmp_path: Path) -> tuple[Folder, Texts]:
    """A training text of 300 different words, of which word k stands there k + 1 times."""
    words = " ".join(" ".join([f"w{number:03}"] * (number + 1)) for number in range(300))
    (tmp_path / "train.gz").write_bytes(gzip.compress(words.encode()))
    return Folder("wikitext2", "", tmp_path), Texts((DataFile("train.gz"),), (), (), train_words=45_151)


def test_every_task_of_the_catalogue_has_a_definition() -> None:
    assert list(DEFINITIONS) == list(TASKS)


@pytest.mark.parametrize("name", WITHOUT_DATA)
def test_a_model_has_the_size_and_shapes_that_are_promised(name: str) -> None:
    definition = builtin_definition(name)
    assert definition.name == name
    assert parameters_of(definition) == TASKS[name].parameters
    definition.model.train()
    for examples in (1, 3):
        logits = definition.model(example_of(definition, examples))
        assert tuple(logits.shape) == (examples, *definition.label.logits_shape)
    assert definition.label.names
    assert "Data: " in definition.description


@pytest.mark.parametrize("name", ["mnist-cnn", "cifar10-resnet8", "shakespeare-gru", "tiny-transformer"])
def test_a_definition_is_the_same_each_time_and_leaves_the_random_state_alone(name: str) -> None:
    before = torch.random.get_rng_state()
    first = builtin_definition(name).model.state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    second = builtin_definition(name).model.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", ["shakespeare-gru", "tiny-transformer"])
def test_a_prediction_does_not_see_what_it_predicts(name: str) -> None:
    """Tokens from position 20 on change; logits before it do not, those from it on do."""
    definition = builtin_definition(name)
    definition.model.eval()
    x = example_of(definition, 2)
    changed = x.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % len(definition.label.names)
    with torch.no_grad():
        difference = (definition.model(x) - definition.model(changed)).abs().amax(dim=(0, 2))
    assert difference[:20].max() < 1e-6
    assert difference[20:].min() > 1e-4


def test_the_wide_networks_width_is_an_option() -> None:
    assert parameters_of(builtin_definition("mnist-fc?width=32")) == 784 * 32 + 32 + 2 * (32 * 32 + 32) + 32 * 10 + 10
    assert parameters_of(mnist.fully_connected(1)) == 784 + 1 + 2 * 2 + 10 + 10
    for spec, said in (
        ("mnist-fc?width=0", "must be at least 1"),
        ("mnist-fc?width=99999", "width=99999: must be a whole number from 0 to 16384"),
        ("mnist-fc?depth=3", "unknown option depth; there is width=4069"),
        ("mnist-cnn?width=3", "unknown option width; it has none"),
        ("mnist-cnn?width", "key=value"),
        ("chess", "no built-in task 'chess'; there is: activity, mnist-cnn"),
    ):
        with pytest.raises(DataError) as caught:
            builtin_definition(spec)
        assert said in str(caught.value)


def test_the_linear_network_is_linear() -> None:
    """FLARE's network has no activations: what it gives for a mean is the mean of what it gives."""
    model = mnist.fully_connected(16).model
    x = torch.randn(2, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(model(x.mean(0, keepdim=True)), model(x).mean(0, keepdim=True))


def test_the_words_are_those_of_the_training_text(small_text: tuple[Folder, Texts]) -> None:
    definition = texts.wikitext2_lstm(small_text[0], 200, small_text[1])
    assert definition.label.names[:3] == ("<unk>", "w299", "w298")
    assert definition.label.names[-1] == "w101"
    assert definition.input.values_below == definition.label.classes == 200
    lstm = 4 * 256 * (100 + 256) + 2 * 4 * 256 + 4 * 256 * (256 + 256) + 2 * 4 * 256
    assert parameters_of(definition) == 200 * 100 + lstm + 256 * 200 + 200
    assert tuple(definition.model(example_of(definition, 2)).shape) == (2, 35, 200)
    full = 10_000 * 100 + lstm + 256 * 10_000 + 10_000
    assert full == TASKS["wikitext2-lstm"].parameters


def test_without_its_data_the_word_model_cannot_be_made() -> None:
    with pytest.raises(DataError, match="data set wikitext2: no folder named"):
        builtin_definition("wikitext2-lstm")
