"""The parts of an installation that not every machine needs: whoever lacks one is told its name and the remedy."""

from collections.abc import Collection
from importlib.util import find_spec
from typing import Literal

from skerry.errors import ConfigError

Extra = Literal["coordinator", "data", "lab", "privacy", "torch"]

_COORDINATOR = {"onnx": "onnx", "prometheus_client": "prometheus-client"}
MODULES: dict[Extra, dict[str, str]] = {  # module -> package; pyproject.toml says which versions
    "coordinator": _COORDINATOR,
    "data": {"PIL": "pillow"},
    "lab": _COORDINATOR | {"matplotlib": "matplotlib", "rich": "rich"},
    "privacy": {"dp_accounting": "dp-accounting"},
    "torch": {"onnx": "onnx", "onnxscript": "onnxscript", "torch": "torch"},
}


def require(extra: Extra, what: str, otherwise: str = "", *, modules: Collection[str] = ()) -> None:
    """Check that `what` has the packages of `extra`, or those of `modules` where not all are needed.

    `otherwise` is another way out, as the end of the sentence.

    Raises:
        ConfigError: naming those that are missing and the remedy.
    """
    wanted = [module for module in MODULES[extra] if not modules or module in modules]
    missing = [MODULES[extra][module] for module in wanted if find_spec(module) is None]
    if missing:
        raise ConfigError(
            f"{what} needs {', '.join(missing)}: pip install '.[{extra}]' in a checkout of Skerry{otherwise}"
        )
