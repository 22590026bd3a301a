"""The built-in tasks by name: what is known of each without torch, its data or its bundle."""

from dataclasses import dataclass

from skerry.errors import DataError

# The bundles that come with the product, in skerry/tasks; the others are built where torch is.
SHIPPED = {"activity": "activity/activity.skerry", "mnist-cnn": "builtin/mnist-cnn.skerry"}


@dataclass(frozen=True, slots=True)
class BuiltinTask:
    """One task, with its options at their defaults."""

    name: str
    data_set: str  # as in builtin:DATA_SET
    parameters: int  # that are trained
    summary: str
    options: str = ""  # as behind the ? of builtin:NAME?...
    needs_data: bool = False  # to be built


TASKS = {
    task.name: task
    for task in (
        BuiltinTask("activity", "activity", 14_278, "what somebody is doing, from ten seconds of acceleration"),
        BuiltinTask("mnist-cnn", "mnist", 21_840, "handwritten digits, a small convolutional network"),
        BuiltinTask("mnist-fc", "mnist", 36_356_525, "handwritten digits, four linear layers", options="width=4069"),
        BuiltinTask("cifar10-cnn", "cifar10", 550_570, "ten things in small images, a convolutional network"),
        BuiltinTask("cifar10-resnet8", "cifar10", 78_042, "the same, a residual network of 8 layers"),
        BuiltinTask("cifar10-resnet18", "cifar10", 11_173_962, "the same, a residual network of 18 layers"),
        BuiltinTask("wikitext2-lstm", "wikitext2", 4_462_928, "the next word, two LSTM layers", needs_data=True),
        BuiltinTask("shakespeare-gru", "shakespeare", 271_371, "the next character, a GRU"),
        BuiltinTask("tiny-transformer", "shakespeare", 424_267, "the next character, a small transformer"),
    )
}


def task_of(name: str) -> BuiltinTask:
    """Return what is known of a task.

    Raises:
        DataError: there is none of this name.
    """
    if name not in TASKS:
        raise DataError(f"no built-in task {name!r}; there is: {', '.join(TASKS)}")
    return TASKS[name]


def build_command(task: BuiltinTask) -> str:
    """Return the command line that builds the task's bundle."""
    data = " --data-dir DIR" if task.needs_data else ""
    return f"skerry-task build builtin:{task.name} --output {task.name}.skerry{data}"
