"""What is known of a run before anything starts: the task, the rows of each device, and the central model."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from skerry import profile as profiles
from skerry.recipe import Recipe
from skerry.tasks import data
from skerry.tasks.bundle import Bundle, resolve
from skerry.tasks.data import Dataset
from skerry.training.shuffle import Shuffle
from skerry.training.trainer import open_trainer
from testbed import central
from testbed.processes.link import Link
from testbed.run_record import CentralRecord, DeviceWorld, LinkRecord, ModelRecord, RegionWorld, WorldRecord
from testbed.scenario import Scenario


@dataclass(frozen=True)
class Prepared:
    """A task and its rows, loaded and checked."""

    bundle: Bundle
    training: Mapping[str, Dataset]  # by device
    held_out: Dataset
    world: WorldRecord
    model: ModelRecord


def prepare(scenario: Scenario, data_dir: Path | None = None) -> Prepared:
    """Load what the scenario names, as its services will; `data_dir` is where data sets are.

    Raises:
        SkerryError: a bundle, a data source or a profile does not exist or does not fit.
    """
    bundle = resolve(scenario.task)
    training = {
        device.name: data.load(scenario.data_source(device.name), bundle.manifest, data_dir=data_dir)
        for _, device in scenario.devices()
    }
    held_out = data.load(scenario.held_out, bundle.manifest, held_out=True, data_dir=data_dir)
    return Prepared(
        bundle=bundle,
        training=training,
        held_out=held_out,
        world=_world(scenario, {name: len(rows) for name, rows in training.items()}),
        model=ModelRecord(
            task=bundle.manifest.name,
            parameters=bundle.manifest.layout.size,
            classes=bundle.manifest.label.classes or 0,
            bundle_sha256=bundle.sha256,
            held_out_examples=len(held_out),
        ),
    )


def train_centrally(prepared: Prepared, scenario: Scenario, recipe: Recipe, seed: int) -> CentralRecord | None:
    """Train the same model on all devices' rows together, if the scenario asks for it; this takes seconds."""
    if scenario.central is None:
        return None
    rows = list(prepared.training.values())
    together = Dataset(np.concatenate([own.x for own in rows]), np.concatenate([own.y for own in rows]), rows[0].input)
    return central.train(
        open_trainer(prepared.bundle),
        prepared.bundle.initial_parameters(),
        together,
        prepared.held_out,
        scenario.central,
        optimizer=recipe.optimizer,
        schedule=recipe.schedule,
        learning_rate=recipe.decay.initial,
        batch_examples=scenario.batch_examples or prepared.bundle.manifest.defaults.batch_examples,
        noise_values=prepared.bundle.manifest.noise_values,
        rng=Shuffle(seed),
    )


def _world(scenario: Scenario, examples: Mapping[str, int]) -> WorldRecord:
    device_profiles = {device.name: profiles.load(device.profile) for _, device in scenario.devices()}
    links = [
        _link(device.name, region.coordinator, scenario.device_link(device, device_profiles[device.name]))
        for region, device in scenario.devices()
    ]
    coordinators = [region.coordinator for region in scenario.regions]
    links += [_link(a, b, scenario.links.regions.link()) for a, b in combinations(coordinators, 2)]
    return WorldRecord(
        regions=tuple(
            RegionWorld(
                name=region.name,
                coordinator=region.coordinator,
                devices=tuple(device.name for device in region.devices),
            )
            for region in scenario.regions
        ),
        devices=tuple(
            DeviceWorld(
                name=device.name,
                region=region.name,
                profile=device.profile,
                duty_cycle=scenario.duty_cycle(device_profiles[device.name]),
                data=scenario.data_source(device.name),
                examples=examples[device.name],
            )
            for region, device in scenario.devices()
        ),
        links=tuple(links),
        shaping="relay in user space",
    )


def _link(a: str, b: str, link: Link) -> LinkRecord:
    return LinkRecord(
        a=a,
        b=b,
        latency_s=link.a_to_b.shape.latency_s,
        a_to_b_bits_per_s=link.a_to_b.shape.bits_per_s,
        b_to_a_bits_per_s=link.b_to_a.shape.bits_per_s,
    )
