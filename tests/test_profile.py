import pytest

from skerry import profile
from skerry.errors import ConfigError
from skerry.profile import Lab, Link, Measured, Profile


def test_the_shipped_profiles_are_good_and_bear_their_own_names() -> None:
    assert {"raspberry-pi-zero-2w", "raspberry-pi-4b", "jetson-orin-nano"} <= set(profile.names())
    for name in profile.names():
        assert profile.load(name).name == name


def test_the_duty_cycle_of_a_lab_is_the_inverse_of_the_slowdown() -> None:
    assert Lab(slowdown=4.0).duty_cycle == 0.25


def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("profile") / "mine.toml"
    written = Profile(
        name="mine",
        description='a "board"\nof two lines',
        threads=2,
        memory_bytes=1 << 30,
        link=Link(latency_s=0.01, up_bytes_per_s=1e6, down_bytes_per_s=2.5e7),
        lab=Lab(slowdown=3.0),
        measured=Measured(
            bundle="activity", batch_examples=32, seconds_per_step=1.25e-4, disk_sync_s=0.02, resident_bytes=7
        ),
    )
    path.write_text(profile.to_toml(written, "A comment."))
    assert profile.load(str(path)) == written


def test_an_unknown_profile_names_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="raspberry-pi-4b"):
        profile.load("abacus")
