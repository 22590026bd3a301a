"""`skerry-task`: build, check, show and list bundles."""

import json
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from skerry import __version__
from skerry.command_line import CONTEXT_SETTINGS
from skerry.errors import SkerryError
from skerry.extras import require
from skerry.tasks import data
from skerry.tasks.bundle import BUILTIN_PREFIX, Bundle, resolve
from skerry.tasks.manifest import IGNORED, Label, Manifest

EXIT_CODES = """\b
Exit codes: 0 done, 1 something else went wrong, 2 wrong usage or a missing
package, 5 a bundle, a model or data that does not fit."""

CLASSES_SHOWN = 100  # a vocabulary would fill the screen

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="SKERRY_DATA",
    show_envvar=True,
    help="Where the data sets of built-in tasks are.",
)


@click.group(epilog=EXIT_CODES, context_settings=CONTEXT_SETTINGS)
@click.version_option(__version__, prog_name="skerry-task")
def task() -> None:
    """Make and inspect bundles: a task in one file, which devices run without torch.

    \b
    Examples:
      skerry-task show builtin:activity
      skerry-task build my_task:definition --output my_task.skerry
      skerry-task check my_task.skerry --data csv:readings.csv
    """  # noqa: D301 - click takes \b for "do not rewrap"


@task.command(epilog=EXIT_CODES)
@click.argument("definition")
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The bundle to write."
)
@data_dir_option
@click.option(
    "--measure/--no-measure",
    default=True,
    show_default=True,
    help="Try the gradients of convolutions in several forms and keep the fastest.",
)
@as_json
def build(definition: str, output: Path, data_dir: Path | None, measure: bool, as_json: bool) -> None:
    """Export a torch model to a bundle. Needs torch.

    DEFINITION is MODULE:FUNCTION, looked for in the working directory, too, or builtin:TASK. The function returns a
    skerry.training.definition.TaskDefinition; docs/adding_a_task.md shows one. Every gradient is compared with
    torch's own before anything is written. What it is at is said on standard error.

    \b
    Examples:
      skerry-task build my_task:definition --output my_task.skerry
      skerry-task build builtin:cifar10-cnn -o cifar10-cnn.skerry --json
      skerry-task build "builtin:mnist-fc?width=256" -o mnist-fc.skerry
      skerry-task build builtin:wikitext2-lstm -o words.skerry --data-dir /srv/datasets
    """  # noqa: D301 - click takes \b for "do not rewrap"
    require("torch", "building a bundle")
    from skerry.training.build import build as build_bundle
    from skerry.training.definition import load_definition

    if definition.startswith(BUILTIN_PREFIX):
        from skerry.training.builtin.definitions import builtin_definition

        loaded = builtin_definition(definition.removeprefix(BUILTIN_PREFIX), data_dir)
    else:
        sys.path.insert(0, str(Path.cwd()))
        loaded = load_definition(definition)
    built = build_bundle(loaded, measure=measure, say=lambda text: click.echo(text, err=True))
    beside = output.with_name(f"{output.name}.new")
    beside.write_bytes(built.file)
    beside.replace(output)
    bundle = Bundle.open(output)
    report = {
        "path": str(output),
        "sha256": bundle.sha256,
        "file_bytes": bundle.file_bytes,
        "parameters": bundle.manifest.layout.size,
        "gradient_error": built.gate.gradient_error,
    }
    _print(
        report,
        as_json,
        f"{output}: {bundle.file_bytes} bytes, {bundle.manifest.layout.size} parameters, sha256 {bundle.sha256}\n"
        f"gradient equals torch's within {built.gate.gradient_error:.1e}",
    )


@task.command(epilog=EXIT_CODES)
@click.argument("bundle")
@click.option("--data", "source", help="Also read this data source, and check it against the bundle.")
@data_dir_option
@as_json
def check(bundle: str, source: str | None, data_dir: Path | None, as_json: bool) -> None:
    """Check a bundle: format, hashes, graphs, and gradients against the slope of the loss. Needs no torch.

    BUNDLE is a path or builtin:TASK. With --data, check a device's data as well, and count its rows and, of those to
    train on, the classes.

    \b
    Examples:
      skerry-task check my_task.skerry
      skerry-task check builtin:activity --data "builtin:activity?part=0&parts=6"
      skerry-task check my_task.skerry --data csv:readings.csv --json
    """  # noqa: D301 - click takes \b for "do not rewrap"
    from skerry.training.check import ERROR_MAX, check_bundle

    opened = resolve(bundle)
    found = check_bundle(opened)
    report: dict[str, Any] = {
        "bundle": bundle,
        "sha256": opened.sha256,
        "gradient_error": found.gradient_error,
        "gradient_error_max": ERROR_MAX,
        "initial_loss": found.initial_loss,
    }
    lines = [
        f"{bundle}: intact; the gradient is right: {found.gradient_error:.2%} off the slope of the loss as finite "
        f"differences give it, {ERROR_MAX:.0%} allowed"
    ]
    if source is not None:
        dataset, held_out = data.load_parts(source, opened.manifest, data_dir=data_dir)
        label, held_out_rows = opened.manifest.label, 0 if held_out is None else len(held_out)
        report["data"] = {"source": source, "examples": len(dataset), "held_out_examples": held_out_rows}
        lines.append(f"{source}: {len(dataset)} rows to train on, {held_out_rows or 'none'} held out")
        if dataset.label_column is not None:
            report["data"]["label_column"] = dataset.label_column
            lines.append(f"label: column {dataset.label_column}")
        if label.classes is not None:
            counts = np.bincount(dataset.y[dataset.y != IGNORED], minlength=label.classes).tolist()
            report["data"]["classes"] = counts
            names = label.names or range(len(counts))
            lines += [f"  {name}: {count}" for name, count in zip(names, counts, strict=True)][:CLASSES_SHOWN]
            if len(counts) > CLASSES_SHOWN:
                lines.append(f"  and {len(counts) - CLASSES_SHOWN} more classes")
    _print(report, as_json, "\n".join(lines))


@task.command("list", epilog=EXIT_CODES)
@as_json
def list_tasks(as_json: bool) -> None:
    """List the built-in tasks: their parameters, their data, and whether their bundles are shipped.

    \b
    Examples:
      skerry-task list
      skerry-task list --json
    """  # noqa: D301 - click takes \b for "do not rewrap"
    from skerry.tasks.builtin.catalogue import SHIPPED, TASKS, build_command
    from skerry.tasks.builtin.source import DATA_SETS

    homes = {name: kind.home for name, kind in DATA_SETS.items()} | {"activity": "shipped with the product"}
    report = [
        {
            "name": found.name,
            "summary": found.summary,
            "parameters": found.parameters,
            "options": found.options,
            "shipped": found.name in SHIPPED,
            "build": build_command(found),
            "data_set": found.data_set,
            "data_from": homes[found.data_set],
        }
        for found in TASKS.values()
    ]
    rows = [("task", "parameters", "data set", "bundle", "")]
    for found in TASKS.values():
        options = f" ({found.options})" if found.options else ""
        bundle = "shipped" if found.name in SHIPPED else "to be built"
        rows.append((found.name, f"{found.parameters:,}", found.data_set, bundle, found.summary + options))
    lines = [
        f"{name:<18}{size:>12}  {data_set:<13}{bundle:<13}{text}".rstrip()
        for name, size, data_set, bundle, text in rows
    ]
    lines += ["", *(f"{name}: {home}" for name, home in homes.items())]
    lines += ["", "To build one: skerry-task build builtin:TASK --output FILE"]
    _print({"tasks": report}, as_json, "\n".join(lines))


@task.command(epilog=EXIT_CODES)
@click.argument("bundle")
@as_json
def show(bundle: str, as_json: bool) -> None:
    """Show what a bundle says about its task.

    BUNDLE is a path or builtin:TASK.

    \b
    Examples:
      skerry-task show builtin:activity
      skerry-task show my_task.skerry --json
    """  # noqa: D301 - click takes \b for "do not rewrap"
    opened = resolve(bundle)
    _print(_described(opened), as_json, _text(opened))


def main() -> None:
    """Run the command line; an error that a person can act on is one line and an exit code."""
    try:
        task()
    except SkerryError as error:
        click.echo(f"skerry-task: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        click.echo(f"skerry-task: {error.filename}: {error.strerror}", err=True)
        sys.exit(1)


def _described(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "description": manifest.description,
        "path": str(bundle.path),
        "sha256": bundle.sha256,
        "file_bytes": bundle.file_bytes,
        "parameters": manifest.layout.size,
        "trainable_parameters": manifest.layout.trainable_size,
        "input": {
            "shape": list(manifest.input.shape),
            "dtype": manifest.input.dtype,
            "names": list(manifest.input.names),
        },
        "missing_as": manifest.input.missing_as,
        "normalised": manifest.input.normalisation is not None,
        "loss": manifest.label.loss,
        "label_shape": list(manifest.label.shape),
        "classes": list(manifest.label.names) or manifest.label.classes,
        "defaults": {
            "batch_examples": manifest.defaults.batch_examples,
            "learning_rate": manifest.defaults.learning_rate,
        },
        "tensors": [
            {"name": tensor.name, "shape": list(tensor.shape), "trainable": tensor.trainable}
            for tensor in manifest.layout.tensors
        ],
        "parts": {
            str(name): {"sha256": digest, "bytes": len(bundle.part(name))} for name, digest in manifest.parts.items()
        },
    }


def _text(bundle: Bundle) -> str:
    manifest = bundle.manifest
    rows = [
        ("task", manifest.name),
        ("file", f"{bundle.path} ({bundle.file_bytes} bytes)"),
        ("sha256", bundle.sha256),
        (
            "input",
            f"{manifest.input.dtype} (examples, {', '.join(map(str, manifest.input.shape))}){_preparation(manifest)}",
        ),
        *([("features", ", ".join(manifest.input.names))] if manifest.input.names else []),
        ("predicts", _predicted(manifest.label)),
        ("parameters", f"{manifest.layout.size}, of which {manifest.layout.trainable_size} are trained"),
        ("defaults", f"batches of {manifest.defaults.batch_examples}, learning rate {manifest.defaults.learning_rate}"),
        *(("tensor", f"{tensor.name} {tensor.shape}") for tensor in manifest.layout.tensors),
        *(("part", f"{name} ({len(bundle.part(name))} bytes)") for name in manifest.parts),
    ]
    head = f"{manifest.description}\n\n" if manifest.description else ""
    return head + "\n".join(f"{key:<12}{value}" for key, value in rows)


def _predicted(label: Label) -> str:
    each = f"for each of {label.shape} places" if label.shape else "for each example"
    if label.classes is None:
        return f"a value {each}, by {label.loss}"
    names = label.names or tuple(map(str, range(label.classes)))
    more = f" and {len(names) - CLASSES_SHOWN} more" if len(names) > CLASSES_SHOWN else ""
    return f"a class {each}: {', '.join(names[:CLASSES_SHOWN])}{more}"


def _preparation(manifest: Manifest) -> str:
    steps = []
    if manifest.input.missing_as is not None:
        steps.append(f"missing values as {manifest.input.missing_as:g}")
    if manifest.input.normalisation is not None:
        steps.append("normalised")
    return f", {', '.join(steps)}" if steps else ""


def _print(report: dict[str, Any], as_json: bool, text: str) -> None:
    click.echo(json.dumps(report, indent=1) if as_json else text)


if __name__ == "__main__":
    main()
