"""`skerry-coordinator init`, `join`, `token` and `devices`, run against a coordinator's enrolment over TLS."""

import asyncio
import json
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography import x509

from coordinator import cli
from coordinator.enrolment import identity_commands, operator_commands
from coordinator.enrolment.records import PartyRow
from skerry import joining
from skerry.errors import SkerryError
from skerry.identity import join_token, key_file, tls
from skerry.identity.certificate import Subject, der_of, subject_of
from skerry.identity.join_token import JoinToken
from skerry.identity.key_file import IdentityFolder
from tests.coordinator.enrolment.conftest import FEDERATION, Served

CONFIG = """
name = "{name}"
region = "eu"
bundle = "builtin:activity"
state_dir = "{folder}"
"""

Run = Callable[..., Any]


def config_of(folder: Path, name: str, more: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "coordinator.toml"
    path.write_text(CONFIG.format(name=name, folder=folder) + more)
    return path


def run(*arguments: object, **options: Any) -> Result:
    """Run a command as `main` does: an error that a person can act on is one line and an exit code."""
    result = CliRunner().invoke(cli.coordinator, [str(one) for one in arguments], **options)
    if isinstance(result.exception, SkerryError):
        result.exit_code, result.stderr_bytes = result.exception.exit_code, str(result.exception).encode()
    elif result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def ask(served: Served) -> Run:
    """Run an operator's command against the served coordinator, off its loop."""

    async def asked(*arguments: object, **options: Any) -> Result:
        whom = ("--url", served.url, "--identity", served.bench.folder.path / "admin")
        return await asyncio.to_thread(run, *arguments, *whom, **options)

    return asked


async def enrol(served: Served, folder: Path, name: str = "pi", **wanted: object) -> None:
    token = await served.bench.token(len(served.bench.desk.registry.tokens()) + 1, **wanted)
    await joining.join(
        served.url, token, IdentityFolder(folder), role="agent", name=name, wall_clock=lambda: served.bench.now_s[0]
    )


# --- init ---


def test_init_makes_a_federation_that_is_reached_by_every_address(tmp_path: Path) -> None:
    config = config_of(tmp_path, "eu-1")
    result = run("init", "-c", config, "-a", "eu.example.org", "-a", "192.0.2.7", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    folder = IdentityFolder(Path(report["identity_dir"]))
    assert folder.path == tmp_path / "identity"
    (own,) = folder.certificates(key_file.CERTIFICATE)
    assert subject_of(der_of(own)) == Subject(report["federation"], "coordinator", "eu-1")
    names = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    every = {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}
    assert every >= {"eu.example.org", "192.0.2.7", "localhost", "127.0.0.1", "::1"}
    assert set(report["addresses"]) == every
    tls.server_context(folder)
    tls.client_context(IdentityFolder(Path(report["operator_dir"])))


def test_init_says_what_comes_next_and_refuses_a_second_time(tmp_path: Path) -> None:
    config = config_of(tmp_path, "eu-1", "insecure = true\n")
    first = run("init", "-c", config)
    assert "next        skerry-coordinator run" in first.stdout
    assert "insecure = true" in first.stderr
    assert "PRIVATE" not in first.output
    again = run("init", "-c", config)
    assert again.exit_code == 2
    assert "holds an identity already" in again.stderr


def test_init_refuses_what_is_no_address_and_makes_nothing(tmp_path: Path) -> None:
    result = run("init", "-c", config_of(tmp_path, "eu-1"), "-a", "https://eu.example.org")
    assert result.exit_code == 2
    assert "no host name and no IP address" in result.stderr
    assert not (tmp_path / "identity").exists()


# --- join ---


@pytest.mark.parametrize("way", ["--token-file", "environment", "stdin"])
async def test_another_coordinator_joins_by_any_way_to_give_the_join_token(
    served: Served, tmp_path: Path, way: str
) -> None:
    text = (await served.bench.token(role="coordinator")).text()
    (tmp_path / "token.txt").write_text(text + "\n")
    given: tuple[tuple[object, ...], dict[str, Any]] = {
        "--token-file": (("--token-file", tmp_path / "token.txt"), {}),
        "environment": ((), {"env": {"SKERRY_JOIN_TOKEN": text}}),
        "stdin": (("--token-file", "-"), {"input": text}),
    }[way]  # type: ignore[assignment]
    config = config_of(tmp_path / "us", "us-1")
    result = await asyncio.to_thread(run, "join", served.url, "-c", config, *given[0], **given[1])
    assert result.exit_code == 0, result.output
    assert "coordinator us-1 has joined" in result.stdout
    folder = IdentityFolder(tmp_path / "us" / "identity")
    assert folder.authority(key_file.ISSUER_KEY, key_file.ISSUER).federation == FEDERATION
    assert text not in result.output


async def test_a_join_without_a_join_token_says_how_to_get_one(served: Served, tmp_path: Path) -> None:
    config = config_of(tmp_path, "us-1")
    nothing = await asyncio.to_thread(run, "join", served.url, "-c", config)
    assert (nothing.exit_code, "token create" in nothing.stderr) == (2, True)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    binary = await asyncio.to_thread(run, "join", served.url, "-c", config, "--token-file", tmp_path / "binary")
    assert (binary.exit_code, "no text" in binary.stderr) == (2, True)


async def test_a_join_with_a_devices_join_token_is_refused_with_the_reason(served: Served, tmp_path: Path) -> None:
    text = (await served.bench.token()).text()
    config = config_of(tmp_path, "us-1")
    result = await asyncio.to_thread(run, "join", served.url, "-c", config, env={"SKERRY_JOIN_TOKEN": text})
    assert result.exit_code == 7
    assert "for a party of role agent, not coordinator" in result.stderr


# --- join tokens ---


async def test_a_join_token_is_all_that_stands_on_the_standard_output(ask: Run, served: Served) -> None:
    result = await ask("token", "create", "--ttl", "30m", "--uses", "3")
    assert result.exit_code == 0, result.output
    token = join_token.parse(result.stdout)
    assert token.root_sha256 == served.bench.desk.root_sha256
    (row,) = served.bench.desk.registry.tokens()
    assert (row.identifier, row.uses) == (token.identifier.hex(), 3)
    assert row.expires_at_s - row.created_at_s == 1800
    assert "for agents of region eu: 3 uses, until" in result.stderr
    assert f"skerry-agent join {served.url}" in result.stderr
    assert token.secret.hex() not in result.stderr


async def test_who_has_it_joins(ask: Run, served: Served, tmp_path: Path) -> None:
    text = (await ask("token", "create", "--device", "greenhouse-7")).stdout
    joined = await joining.join(
        served.url,
        join_token.parse(text),
        IdentityFolder(tmp_path / "pi"),
        role="agent",
        name=None,
        wall_clock=lambda: served.bench.now_s[0],
    )
    assert joined.name == "greenhouse-7"


async def test_a_coordinators_join_token_can_name_its_addresses(ask: Run, served: Served, tmp_path: Path) -> None:
    made = await ask("token", "create", "--role", "coordinator", "-a", "us.example.org")
    assert "for coordinators at us.example.org of region eu: 1 use" in made.stderr
    config = config_of(tmp_path / "us", "us-1")
    given = ("-c", config, "-a", "bank.example.org", "--json")
    secret = {"SKERRY_JOIN_TOKEN": made.stdout.strip()}
    result = await asyncio.to_thread(run, "join", served.url, *given, env=secret)
    assert json.loads(result.stdout)["addresses"] == ["us.example.org", "127.0.0.1", "localhost", "::1"]
    assert "note: not at bank.example.org" in result.stderr


@pytest.mark.parametrize(
    ("host", "given", "expected"),
    [
        ("0.0.0.0", (), ["board"]),
        ("192.0.2.7", (), ["192.0.2.7", "board"]),
        ("0.0.0.0", ("eu.example.org",), ["eu.example.org"]),
        ("192.0.2.7", ("eu.example.org",), ["eu.example.org", "192.0.2.7"]),
        ("127.0.0.1", (), []),
    ],
)
def test_a_machines_name_is_asked_for_where_there_is_no_better_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, given: tuple[str, ...], expected: list[str]
) -> None:
    """Machines are often called alike, and no two coordinators get the same address."""
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(nodename="board"))
    config = config_of(tmp_path, "eu-1", f'listen.host = "{host}"\n')
    report = json.loads(run("init", "-c", config, *(f"-a{one}" for one in given), "--json").stdout)
    assert [one for one in report["addresses"] if one not in identity_commands.LOOPBACK] == expected


async def test_a_join_token_can_go_to_a_file_for_its_owner_alone(ask: Run, tmp_path: Path) -> None:
    path = tmp_path / "token.txt"
    path.write_text("former")
    path.chmod(0o644)
    result = await ask("token", "create", "-o", path, "--json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(join_token.parse(path.read_text()).secret) == 16
    assert path.read_text().strip() not in result.output
    assert json.loads(result.stdout)["path"] == str(path)


async def test_join_tokens_are_listed_and_revoked(ask: Run) -> None:
    assert "no join tokens" in (await ask("token", "list")).stdout
    made = json.loads((await ask("token", "create", "--json", "--ttl", "7d")).stdout)
    listed = (await ask("token", "list")).stdout
    assert made["identifier"] in listed
    assert "valid" in listed
    assert made["join_token"] not in listed
    revoked = await ask("token", "revoke", made["identifier"])
    assert "revoked: join token" in revoked.stdout
    assert json.loads((await ask("token", "list", "--json")).stdout)["join_tokens"][0]["state"] == "revoked"
    unknown = await ask("token", "revoke", "../devices")
    assert (unknown.exit_code, "there is no join token" in unknown.stderr) == (1, True)


@pytest.mark.parametrize("ttl", ["5", "1w", "-1h", "", "h"])
async def test_what_is_no_time_is_refused(ask: Run, ttl: str) -> None:
    result = await ask("token", "create", "--ttl", ttl)
    assert (result.exit_code, "such as 30m, 12h or 7d" in result.stderr) == (2, True)


@pytest.mark.parametrize("ttl", ["59s", "0d", "367d"])
async def test_a_join_token_for_too_short_or_too_long_is_wrong_usage(ask: Run, served: Served, ttl: str) -> None:
    result = await ask("token", "create", "--ttl", ttl)
    assert (result.exit_code, f"'{ttl}' is not from 60s to 366d" in result.stderr) == (2, True)
    assert served.bench.desk.registry.tokens() == []
    assert "60s to 366d" in " ".join(run("token", "create", "--help").stdout.split())


@pytest.mark.parametrize("ttl", ["60s", "366d"])
async def test_a_join_token_lasts_from_a_minute_to_a_year(ask: Run, ttl: str) -> None:
    assert (await ask("token", "create", "--ttl", ttl)).exit_code == 0


# --- devices ---


async def test_a_device_that_another_coordinator_enrolled_has_no_certificate_that_is_known(
    ask: Run, served: Served
) -> None:
    await served.bench.desk.learn_parties(
        [PartyRow("agent", "far", "f" * 64, "us", "far", "", 1_000.0, 0.0, "")], "us-1"
    )
    head, line = (await ask("devices", "list")).stdout.splitlines()
    assert head.split("  ")[0] == "NAME"
    assert "STATE HERE" in head
    assert line.endswith("not known here")
    shown = (await ask("devices", "show", "far")).stdout
    assert "certificate not known here" in shown


async def test_devices_are_listed_shown_and_renamed(ask: Run, served: Served, tmp_path: Path) -> None:
    assert "no devices" in (await ask("devices", "list")).stdout
    await enrol(served, tmp_path / "pi")
    assert (await ask("devices", "rename", "pi", "by the window")).exit_code == 0
    listed = (await ask("devices", "list")).stdout
    (line,) = [one for one in listed.splitlines() if one.startswith("pi ")]
    assert "by the window" in line
    assert "connected" in line
    assert " 7 " in line
    assert "eu-1" not in listed
    assert "eu-1" in (await ask("devices", "list", "--all")).stdout
    shown = (await ask("devices", "show", "pi")).stdout
    assert "title       by the window" in shown
    assert served.bench.desk.registry.parties()[1].key in shown
    shown = (await ask("devices", "show", "eu-1", "--role", "coordinator")).stdout
    assert "for eu-1.example.org, localhost, 127.0.0.1" in shown
    unknown = await ask("devices", "show", "nobody")
    assert (unknown.exit_code, "no agent 'nobody'" in unknown.stderr) == (1, True)


async def test_a_device_in_quarantine_is_shown_and_released(ask: Run, served: Served, tmp_path: Path) -> None:
    await enrol(served, tmp_path / "pi")
    served.bench.quarantine = "its updates point \x1b[2J away"
    assert "connected, in quarantine" in (await ask("devices", "list")).stdout
    assert (
        "state       connected, in quarantine: its updates point ?[2J away"
        in (await ask("devices", "show", "pi")).stdout
    )
    assert "released: pi" in (await ask("devices", "release", "pi")).stdout
    assert "quarantine" not in (await ask("devices", "list")).stdout
    again = await ask("devices", "release", "pi")
    assert (again.exit_code, "'pi' is not in quarantine" in again.stderr) == (1, True)


async def test_a_peer_whose_model_is_refused_is_admitted(ask: Run) -> None:
    assert (await ask("peers", "admit", "us-1")).stdout == "admitted: us-1; its next model is merged\n"
    assert json.loads((await ask("peers", "admit", "us-1", "--json")).stdout) == {"admitted": "us-1"}
    other = await ask("peers", "admit", "sa-1")
    assert (other.exit_code, "the model of peer 'sa-1' is not refused" in other.stderr) == (1, True)


async def test_a_join_token_for_nobody_is_wrong_usage(ask: Run, served: Served) -> None:
    refused = await ask("token", "create", "--uses", "0")
    assert (refused.exit_code, "--uses" in refused.stderr) == (2, True)
    assert served.bench.desk.registry.tokens() == []


async def test_agents_are_sent_elsewhere(ask: Run, served: Served) -> None:
    served.bench.elsewhere = ("us-1", "us-2")
    told = (await ask("drain")).stdout
    assert "drained: 3 agents were asked to go elsewhere. Known to take agents: us-1, us-2." in told
    assert "a restart takes agents again" in told
    assert json.loads((await ask("drain", "--json")).stdout) == {"sent_away": 3, "elsewhere": ["us-1", "us-2"]}


async def test_a_drain_with_nowhere_to_go_says_so(ask: Run) -> None:
    told = (await ask("drain")).stdout
    assert "drained: 3 agents were asked to go, but no other coordinator that takes agents is known here" in told
    assert "a restart takes agents again" in told


async def test_a_device_is_revoked_only_when_that_was_confirmed(ask: Run, served: Served, tmp_path: Path) -> None:
    await enrol(served, tmp_path / "pi")
    assert (await ask("devices", "revoke", "pi", input="n\n")).exit_code == 1
    assert served.bench.desk.registry.digest is None
    assert "revoked: agent pi" in (await ask("devices", "revoke", "pi", input="y\n")).stdout
    assert served.bench.desk.registry.digest is not None
    assert "revoked before" in (await ask("devices", "revoke", "pi", "--yes")).stdout
    assert "no devices" in (await ask("devices", "list")).stdout
    assert "revoked" in (await ask("devices", "list", "--all")).stdout


async def test_whom_to_ask_and_as_whom_follows_from_the_configuration(served: Served, tmp_path: Path) -> None:
    """As its operator where `init` ran, as the coordinator itself elsewhere."""
    state_dir = served.bench.state_dir
    (state_dir / "port").write_text(served.url.rpartition(":")[2])
    config = config_of(state_dir, "eu-1", "[listen]\nport = 0\n")
    for _ in range(2):
        result = await asyncio.to_thread(run, "token", "list", "-c", config)
        assert result.exit_code == 0, result.stderr
        (state_dir / "identity" / "admin" / "certificate.pem").unlink(missing_ok=True)
    (state_dir / "port").unlink()
    result = await asyncio.to_thread(run, "token", "list", "-c", config)
    assert (result.exit_code, "is not running" in result.stderr) == (1, True)
    insecure = config_of(tmp_path / "lab", "eu-1", "insecure = true\n")
    result = await asyncio.to_thread(run, "token", "list", "-c", insecure)
    assert (result.exit_code, "nobody joins" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    "arguments", [("status",), ("token", "list"), ("model", "export", "-o", "model.safetensors")], ids=" ".join
)
def test_an_address_alone_is_not_enough_to_ask_as_an_operator(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    missing = tmp_path / "missing.toml"
    result = run(*arguments, "--url", "https://eu.example.org:8470", "-c", missing)
    assert (result.exit_code, "name the folder of that identity with --identity DIR" in result.stderr) == (2, True)
    assert f"{missing} is not there" in result.stderr


async def test_who_does_not_answer_is_named(served: Served) -> None:
    identity = served.bench.folder.path / "admin"
    for url, text in (
        ("https://127.0.0.1:1", "no coordinator answers at https://127.0.0.1:1: Connection refused"),
        ("http://127.0.0.1:1", "no https:// URL"),
        (served.url.replace("127.0.0.1", "127.0.0.2"), "name the coordinator by an address"),
        (served.url + "/elsewhere", "Not Found"),
    ):
        result = await asyncio.to_thread(run, "token", "list", "--url", url, "--identity", identity)
        assert text in result.stderr
        assert result.exit_code in {1, 2}


@pytest.mark.parametrize(
    "group", [identity_commands.init, identity_commands.join, operator_commands.token, operator_commands.devices]
)
def test_every_command_has_an_example_and_json(group: Any) -> None:
    for command in getattr(group, "commands", {"": group}).values():
        assert "Example" in command.help
        assert any("--json" in one.opts for one in command.params)


def test_a_join_token_shows_its_secret_nowhere_but_in_its_text() -> None:
    token = JoinToken(bytes(32), bytes(8), b"sixteen bytes ok")
    assert "sixteen" not in f"{token} {token!r} {vars(cli)}"
