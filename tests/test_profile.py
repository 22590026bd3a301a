import math
import re
import tomllib
from pathlib import Path

import pytest

from edge_agent import config as agent_config
from edge_agent.config import AgentConfig, Data, Limits, Training, with_profile
from skerry import profile
from skerry.errors import ConfigError
from skerry.profile import Jitter, Lab, Link, Measured, Profile, Throttling
from testbed.scenario import Device, Region, Scenario

SHIPPED = (
    "jetson-nano",
    "jetson-orin-nano",
    "mini-pc-x86",
    "phone-arm64",
    "raspberry-pi-3b-plus",
    "raspberry-pi-4b",
    "raspberry-pi-5",
    "raspberry-pi-zero-2w",
)
# What a value's comment starts with; behind the colon, the document and its year, or the reason.
SOURCED = re.compile(
    r"(data sheet: .+, \d{4}|benchmark: (same as \w+|.+, \d{4}|.+, \d{4}: .+)|estimate: .+|choice: .+|measured: .+)"
)
UNITLESS = {"name", "description", "engine", "providers", "threads", "distribution", "sigma", "slowdown", "throttled"}
UNITS = ("_bytes", "_bytes_max", "_s", "_bytes_per_s", "_bytes_per_hour", "_share", "_examples", "_c", "_percent")


def test_every_board_that_is_promised_has_a_profile() -> None:
    assert tuple(profile.names()) == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_every_value_of_a_shipped_profile_names_its_source(name: str) -> None:
    lines = (profile.FOLDER / f"{name}.toml").read_text().splitlines()
    values = [line for line in lines if "=" in line and not line.startswith("#")]
    assert len(values) > 15
    for line in values:
        (key,) = tomllib.loads(line)
        if key != "name":
            comment = line.rpartition("  # ")[2] if "  # " in line else ""
            assert SOURCED.match(comment), f"{name}: no source: {line}"


@pytest.mark.parametrize("name", SHIPPED)
def test_every_figure_of_a_shipped_profile_has_its_unit_in_its_name(name: str) -> None:
    def keys(table: dict[str, object]) -> set[str]:
        inner = (keys(value) for value in table.values() if isinstance(value, dict))
        return {key for key, value in table.items() if not isinstance(value, dict)}.union(*inner)

    for key in keys(tomllib.loads((profile.FOLDER / f"{name}.toml").read_text())) - UNITLESS:
        assert key.endswith(UNITS), key


@pytest.mark.parametrize("name", SHIPPED)
def test_the_agent_takes_what_it_needs_from_every_shipped_profile(name: str, tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(
        f'device = "d"\ncoordinators = ["https://c.example"]\nprofile = "{name}"\n[data]\nsource = "csv:x"\n'
    )
    loaded = profile.load(name)
    assert loaded.name == name
    in_force = with_profile(agent_config.load(file))
    assert in_force.engine == loaded.engine
    assert in_force.threads == loaded.threads
    assert in_force.providers == loaded.providers
    assert in_force.bundle_bytes_max == loaded.limits.bundle_bytes_max
    assert loaded.memory_bytes is not None
    assert loaded.limits.memory_bytes_max is not None
    assert loaded.limits.bundle_bytes_max < loaded.limits.memory_bytes_max < loaded.memory_bytes
    assert agent_config.load(file).policy == loaded.policy
    assert 50.0 < loaded.policy.temperature_slow_c < loaded.policy.temperature_pause_c < 100.0


@pytest.mark.parametrize("name", SHIPPED)
def test_the_lab_makes_a_device_and_a_link_of_every_shipped_profile(name: str) -> None:
    device = Device(name="a", profile=name)
    scenario = Scenario(name="one", description="", regions=(Region(name="r", coordinator="c", devices=(device,)),))
    loaded = profile.load(name)
    assert loaded.link is not None
    assert scenario.duty_cycle(loaded) == pytest.approx(1.0 / loaded.lab.slowdown)
    shape = scenario.device_link(device, loaded).a_to_b.shape
    assert (shape.latency_s, shape.jitter_s) == (loaded.link.latency_s, loaded.link.jitter_s)
    assert shape.loss_share == loaded.link.loss_share
    assert loaded.lab.jitter.sigma > 0.0
    assert loaded.lab.throttling is not None


def test_what_the_configuration_says_goes_before_the_profile() -> None:
    def in_force(training: Training, limits: Limits) -> agent_config.InForce:
        return with_profile(
            AgentConfig(
                device="d",
                coordinators=("https://c.example",),
                data=Data("csv:x"),
                profile="jetson-orin-nano",
                training=training,
                limits=limits,
            )
        )

    own = in_force(
        Training(engine="torch", threads=3, providers=(), batch_examples=8),
        Limits(bundle_bytes_max=1, residual_bytes_per_s=2.0, flash_bytes_per_hour=6e6),
    )
    assert own == agent_config.InForce("torch", 3, (), 8, 1, 2.0, 6e6)
    assert in_force(Training(), Limits()).providers == ("CUDAExecutionProvider",)


def test_without_a_profile_the_defaults_hold() -> None:
    plain = AgentConfig(device="d", coordinators=("https://c.example",), data=Data("csv:x"))
    assert with_profile(plain) == agent_config.InForce("onnx", 1, (), None, 512 << 20, 100e3, 360e6)


def test_the_duty_cycle_of_a_lab_is_the_inverse_of_the_slowdown() -> None:
    assert Lab(slowdown=4.0).duty_cycle == 0.25


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    written = Profile(
        name="mine",
        description='a "board"\nof two lines',
        providers=("CUDAExecutionProvider", "Other"),
        threads=2,
        batch_examples=16,
        memory_bytes=1 << 30,
        limits=profile.Limits(memory_bytes_max=1 << 28),
        link=Link(latency_s=0.01, down_bytes_per_s=2.5e7, loss_share=0.25),
        lab=Lab(slowdown=3.0, jitter=Jitter(sigma=0.1), throttling=Throttling(every_s=9.0, lasts_s=1.0, slowdown=2.0)),
        measured=Measured(
            runs_on="onnx: CPUExecutionProvider",
            bundle="activity",
            batch_examples=32,
            steps=200,
            seconds_per_step=1.25e-4,
            seconds_per_step_p95=1.5e-4,
            disk_sync_s=0.02,
            disk_sync_p95_s=0.03,
            resident_bytes=7,
        ),
    )
    text = profile.to_toml(written, "A comment.", {"measured": "measured: today", "lab.jitter.sigma": "estimate: x"})
    path.write_text(text)
    assert profile.load(str(path)) == written
    assert text.startswith("# A comment.\n")
    assert "seconds_per_step = 0.000125  # measured: today" in text
    assert "sigma = 0.1  # estimate: x" in text
    assert "residual_bytes_per_s" not in text  # a default


def test_an_unknown_profile_names_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="raspberry-pi-4b"):
        profile.load("abacus")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("threds = 2", "did you mean `threads`"),
        ("threads = 0", "threads"),
        ("[lab]\nslow = 2.0", "lab.*did you mean `slowdown`"),
        ("[lab.jitter]\ndistribution = 'uniform'", "lab.jitter.distribution"),
        ("[link]\nlatency_s = 0.1\ndown_bytes_per_s = 1.0\nloss_share = 1.0", "link.loss_share"),
    ],
)
def test_what_a_profile_cannot_say_is_refused_by_file_and_key(line: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'name = "mine"\n{line}\n')
    with pytest.raises(ConfigError, match=f"mine.toml: .*{told}"):
        profile.load(str(path))


def test_the_comments_state_the_tail_that_the_jitter_means() -> None:
    """A comment says how much longer one step in twenty takes: exp(1.645 sigma) - 1."""
    for name in SHIPPED:
        text = (profile.FOLDER / f"{name}.toml").read_text()
        found = re.search(r"one step in twenty takes (\d+) % longer", text)
        if found is not None:
            expected = math.exp(1.645 * profile.load(name).lab.jitter.sigma) - 1.0
            assert float(found[1]) == pytest.approx(100.0 * expected, abs=1.0), name
