"""Whether a bundle suits the coordinator that is to train it, before anything starts."""

import logging

from msgspec.structs import replace

from coordinator.config import CoordinatorConfig
from skerry.algorithms.privacy import Gaussian
from skerry.errors import ConfigError, DataError
from skerry.protocol.limits import PAYLOAD_BYTES_MAX
from skerry.protocol.sparse import HEADER_BYTES as VECTOR_HEADER_BYTES
from skerry.recipe import Recipe
from skerry.tasks.bundle import Bundle

NOISY_DEVICES = 10.0  # that noise may want at once before an operator hears of it

log = logging.getLogger(__name__)


def check_size(bundle: Bundle) -> None:
    """Refuse a model that no message can carry whole.

    Raises:
        DataError: it is too large.
    """
    size = bundle.manifest.layout.size
    if 4 * size + VECTOR_HEADER_BYTES > PAYLOAD_BYTES_MAX:
        raise DataError(
            f"{bundle.path}: {size} parameters take more than the {PAYLOAD_BYTES_MAX} bytes that one message carries"
        )


def check_privacy(config: CoordinatorConfig, bundle: Bundle) -> None:
    """Refuse noise in a model whose statistics would not stand it: a variance must not fall below zero.

    Warns of noise that only many devices at once average away.

    Raises:
        ConfigError: the recipe's `privacy` does not suit the bundle.
    """
    assert isinstance(config.recipe, Recipe), "config.load reads a recipe that is given as a path"
    privacy, tail, size = config.recipe.privacy, bundle.manifest.layout.tail_size, bundle.manifest.layout.size
    if isinstance(privacy, Gaussian) and (wanted := privacy.devices_wanted(size)) > NOISY_DEVICES:
        log.warning(
            "recipe: privacy.clip_norm is %g, and at a noise_multiplier of %g the noise in %d parameters exceeds what "
            "is learned by far: fewer than %.0f devices at once ruin the model. Leave clip_norm out: %.3g is chosen",
            privacy.norm(size),
            privacy.noise_multiplier,
            size,
            wanted,
            replace(privacy, clip_norm=None).norm(size),
        )
    if tail and privacy.noise_multiplier:
        raise ConfigError(
            f"recipe: privacy.rule is gaussian, but {tail} entries of {bundle.manifest.name} are statistics, which "
            "stand no noise; take a model with group or layer normalisation"
        )
