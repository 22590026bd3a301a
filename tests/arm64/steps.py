"""Writes what the step and prediction graphs of every packaged bundle give: `python -m tests.arm64.steps FILE.npz`.

Run by two interpreters, on the same examples and initial models, to compare what two processors make of them.
"""

import platform
import sys
from pathlib import Path

import numpy as np
import onnxruntime

import skerry.tasks
from skerry.tasks.bundle import Bundle
from skerry.training.made_up import batch
from skerry.training.shuffle import Shuffle
from skerry.training.trainer import open_trainer


def main(file: str) -> None:
    found = {}
    for path in sorted(Path(skerry.tasks.__file__).parent.rglob("*.skerry")):
        bundle = Bundle.open(path)
        trainer, layout = open_trainer(bundle), bundle.manifest.layout
        model = bundle.initial_parameters()
        model[: layout.trainable_size] += Shuffle(2).uniform(layout.trainable_size) - np.float32(0.5)  # no zeros left
        examples = batch(bundle.manifest, bundle.manifest.defaults.batch_examples, seed=1)
        step = trainer.step(model, *examples)
        found[f"{path.stem} loss"] = np.array([step.loss])
        found[f"{path.stem} gradient"] = step.gradient
        found[f"{path.stem} predictions"] = trainer.predict(model, examples.x)
    np.savez(file, **found)  # type: ignore[arg-type]
    print(f"{platform.machine()}: Python {platform.python_version()}", end=", ")
    print(f"numpy {np.__version__}, onnxruntime {onnxruntime.__version__}")


if __name__ == "__main__":
    main(sys.argv[1])
