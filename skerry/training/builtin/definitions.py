"""The definitions of the built-in tasks by name, as `skerry-task build builtin:NAME?...` finds them."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl

from skerry.errors import DataError
from skerry.tasks.builtin import catalogue
from skerry.tasks.builtin.source import folder_of
from skerry.tasks.options import whole_number
from skerry.training.builtin import activity, cifar10, mnist, texts
from skerry.training.definition import TaskDefinition

WIDTH_MAX = 1 << 14

Options = dict[str, str]

DEFINITIONS: dict[str, Callable[[Options, Path | None], TaskDefinition]] = {
    "activity": lambda _options, _data_dir: activity.definition(),
    "mnist-cnn": lambda _options, _data_dir: mnist.cnn(),
    "mnist-fc": lambda options, _data_dir: mnist.fully_connected(
        whole_number(options, "width", mnist.FLARE_WIDTH, WIDTH_MAX)
    ),
    "cifar10-cnn": lambda _options, _data_dir: cifar10.cnn(),
    "cifar10-resnet8": lambda _options, _data_dir: cifar10.resnet8(),
    "cifar10-resnet18": lambda _options, _data_dir: cifar10.resnet18(),
    "wikitext2-lstm": lambda _options, data_dir: texts.wikitext2_lstm(folder_of("wikitext2", data_dir)),
    "shakespeare-gru": lambda _options, _data_dir: texts.shakespeare_gru(),
    "tiny-transformer": lambda _options, _data_dir: texts.tiny_transformer(),
}


def builtin_definition(spec: str, data_dir: Path | None = None) -> TaskDefinition:
    """Return the definition of `NAME` or `NAME?key=value`; `data_dir` is where data sets are, for those that need one.

    Raises:
        DataError: there is no such task or option, or the data that it needs are missing or damaged.
    """
    name, question, query = spec.partition("?")
    task = catalogue.task_of(name)
    try:
        options = dict(parse_qsl(query, strict_parsing=True, max_num_fields=16)) if question else {}
    except ValueError as error:
        raise DataError(f"builtin:{spec}: options must read ?key=value&key=value") from error
    definition = DEFINITIONS[name](options, data_dir)
    if options:
        known = f"there is {task.options}" if task.options else "it has none"
        raise DataError(f"builtin:{spec}: unknown option {', '.join(sorted(options))}; {known}")
    return definition
