"""Two regions and three devices as real processes, each in a network namespace of its own, over links of their own.

Delay and rate are the kernel's (netem) where it has that, else a relay's in user space; one has a quarter of a core.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.netns.cpu_quota import Quota, cpu_quota, version
from tests.netns.network import Network, Unavailable, need_root, run_here, wait_until

pytestmark = pytest.mark.timeout(300)

ENVIRONMENT = os.environ | {"ORT_DISABLE_TELEMETRY": "1", "OPENBLAS_NUM_THREADS": "1"}
PORT = 8470
LATENCY_S, BITS_PER_S = 0.04, 4e6
REGIONS = {"eu": "10.78.0.1", "us": "10.78.0.2"}
PORTS: dict[str, int] = {}  # of loopback in a device's namespace, to its coordinator
QUOTAS: dict[str, Quota] = {}  # of devices that have one
DEVICES = {"quick": ("eu", 1.0), "slow": ("eu", 0.25), "far": ("us", 1.0)}  # region, share of a core


def spawn(stack: ExitStack, namespace: str, *command: str | Path, **options: Any) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        ["ip", "netns", "exec", namespace, *map(str, command)], env=ENVIRONMENT, text=True, **options
    )
    stack.callback(end, process)
    return process


def end(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(20)
    if process.stdout is not None:
        process.stdout.close()


def shaped_port(stack: ExitStack, network: Network, namespace: str, host: str) -> int:
    """Return a port of loopback in `namespace` that leads over its link to a coordinator."""
    in_kernel = network.shape(namespace, LATENCY_S, BITS_PER_S)
    shape = ["0", "0"] if in_kernel else [str(LATENCY_S), str(BITS_PER_S)]
    module = [sys.executable, "-m", "tests.netns.shaped_port", host, str(PORT)]
    process = spawn(stack, namespace, *module, *shape, stdout=subprocess.PIPE)
    assert process.stdout is not None
    print(f"{namespace}: delay and rate by {'netem' if in_kernel else 'a relay in user space'}")
    return int(process.stdout.readline())


def status(region: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{REGIONS[region]}:{PORT}/v1/admin/status", timeout=10) as answer:
        return dict(json.loads(answer.read()))


def answers(region: str) -> bool:
    try:
        return bool(status(region))
    except OSError:
        return False


@contextmanager
def coordinator(network: Network, folder: Path, region: str) -> Iterator[str]:
    """A running coordinator in a namespace of its own, which it yields."""
    namespace = network.add(region, f"{REGIONS[region]}/24")
    (other,) = set(REGIONS) - {region}
    config = folder / f"{region}.toml"
    config.write_text(
        f'name = "{region}"\nregion = "{region}"\nbundle = "builtin:activity"\nstate_dir = "{folder / region}"\n'
        "insecure = true\ninsecure_beyond_loopback = true\n"
        f'[listen]\nhost = "0.0.0.0"\n[peers]\n{other} = "http://{REGIONS[other]}:{PORT}"\n'
    )
    with ExitStack() as stack:
        command = "from coordinator.cli import main; main()"
        spawn(stack, namespace, sys.executable, "-c", command, "run", "--config", config)
        wait_until(lambda: answers(region), f"{region} answers")
        yield namespace


@contextmanager
def device(network: Network, folder: Path, number: int, name: str) -> Iterator[None]:
    region, share = DEVICES[name]
    namespace = network.add(name, f"10.78.0.{10 + number}/24")
    with ExitStack() as stack:
        port = shaped_port(stack, network, namespace, REGIONS[region])
        config = folder / f"{name}.toml"
        config.write_text(
            f'device = "{name}"\ncoordinators = ["http://127.0.0.1:{port}"]\ninsecure = true\n'
            f'state_dir = "{folder / name}"\n[data]\nsource = "builtin:activity?part={number}&parts={len(DEVICES)}"\n'
            "[limits]\nstatus_s = 0.5\n[policy]\nenabled = false\n"
        )
        PORTS[name] = port
        command = [sys.executable, "-c", "from edge_agent.cli import main; main()", "run", "--config", str(config)]
        if share < 1.0:
            QUOTAS[name] = stack.enter_context(cpu_quota(f"skerry-{name}", share))
        process = spawn(stack, namespace, *command)
        if name in QUOTAS:
            QUOTAS[name].processes.write_text(str(process.pid))
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Network, Path]]:
    """The two regions and the three devices at work."""
    folder = tmp_path_factory.mktemp("netns")
    with ExitStack() as stack:
        try:
            need_root()
            network = Network("skn")
        except (Unavailable, FileNotFoundError) as missing:
            pytest.skip(f"{missing}: apt-get install iproute2, and run as root")
        stack.callback(network.remove)
        network.reach("10.78.0.254/24")
        for region in REGIONS:
            stack.enter_context(coordinator(network, folder, region))
        for number, name in enumerate(DEVICES):
            stack.enter_context(device(network, folder, number, name))
        yield network, folder


def updates(name: str) -> int:
    found = status(DEVICES[name][0])["devices"].get(name)
    return 0 if found is None else int(found["updates"])


def agent_status(folder: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((folder / name / "status.json").read_text()))


def test_every_device_contributes_over_its_link(world: tuple[Network, Path]) -> None:
    for name in DEVICES:
        wait_until(partial(contributes, name), f"{name} contributes")


def test_a_request_takes_two_round_trips_of_the_link(world: tuple[Network, Path]) -> None:
    """One for the relay's or TCP's connection, one for the request."""
    network, _ = world
    code = (
        "import time, urllib.request as r; began_s = time.monotonic();"
        f"r.urlopen('http://127.0.0.1:{PORTS['far']}/healthz', timeout=30).read(); print(time.monotonic() - began_s)"
    )
    took_s = float(run_here("ip", "netns", "exec", network.namespaces[-1], sys.executable, "-c", code))
    print(f"a request over the link: {1e3 * took_s:.0f} ms")
    assert 2 * LATENCY_S <= took_s < 20 * LATENCY_S


def test_a_quarter_of_a_core_is_all_that_one_of_them_gets(world: tuple[Network, Path]) -> None:
    _, folder = world
    quota = QUOTAS["slow"]
    before = {name: agent_status(folder, name)["steps"] for name in DEVICES}
    began_s, used_s, held = time.monotonic(), quota.used_s(), quota.held_back()
    time.sleep(10.0)
    share = (quota.used_s() - used_s) / (time.monotonic() - began_s)
    steps = {name: agent_status(folder, name)["steps"] - before[name] for name in DEVICES}
    print(
        f"a quarter of a core by control groups, version {version()}: {share:.2f} of a core used; steps taken: {steps}"
    )
    assert 0.0 < share < 0.3
    assert quota.held_back() > held
    assert steps["slow"] > 0


def seen(region: str) -> int:
    """Return the newest publication of the other region that `region` has."""
    return max((peer["publication"] for peer in status(region)["peers"].values()), default=0)


def contributes(name: str) -> bool:
    return updates(name) > 5


def goes_on(region: str, version: int) -> bool:
    return int(status(region)["version"]) > version


def test_regions_that_are_cut_apart_go_on_and_find_each_other_again(world: tuple[Network, Path]) -> None:
    network, _ = world
    wait_until(lambda: seen("eu") > 0 and seen("us") > 0, "the regions exchange models")
    sides = list(zip(network.namespaces[:2], reversed(REGIONS.values()), strict=True))
    for namespace, other in sides:
        network.part(namespace, other)
    wait_until(lambda: status("eu")["peer_troubles"]["us"], "the cut is noticed", 120.0)
    versions = {region: status(region)["version"] for region in REGIONS}
    for region, before in versions.items():
        wait_until(partial(goes_on, region, before), f"{region} goes on by itself")
    apart = {region: seen(region) for region in REGIONS}
    for namespace, other in sides:
        network.join(namespace, other)
    wait_until(lambda: all(seen(region) > apart[region] for region in REGIONS), "they exchange models again", 180.0)
    wait_until(lambda: not any(status("eu")["peer_troubles"].values()), "the trouble is over")
