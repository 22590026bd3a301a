"""What the run looks like now, asked of the services: coordinators over HTTP, agents by their status.json."""

import asyncio

import aiohttp
import msgspec

from edge_agent import status as agent_status
from skerry.errors import StorageError
from testbed.processes.federation import Federation
from testbed.run_record import LiveDevice, LiveRegion, RegionRecord
from testbed.scenario import Device, Region

ANSWER_TIMEOUT_S = 2.0


class _Device(msgspec.Struct):
    """What a coordinator's `/v1/admin/status` says of a device; the rest is ignored."""

    connected: bool = False
    updates: int = 0


class _Coordinator(msgspec.Struct):
    """What `/v1/admin/status` says; the rest is ignored."""

    version: int
    age: float
    updates_accepted: int
    devices: dict[str, _Device] = {}


async def look(
    federation: Federation, evaluated: tuple[RegionRecord, ...]
) -> tuple[list[LiveRegion], list[LiveDevice]]:
    """Ask every service how it is doing; one that does not answer is shown as unreachable.

    `evaluated`: regions as last read from their journals, for the accuracies.
    """
    regions = federation.scenario.regions
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(ANSWER_TIMEOUT_S)) as session:
        answers = await asyncio.gather(*(_ask(session, federation, region.coordinator) for region in regions))
    known = dict(zip((region.name for region in regions), answers, strict=True))
    accuracies = {region.name: region for region in evaluated}
    return (
        [_region(region, known[region.name], accuracies.get(region.name)) for region in regions],
        [_device(federation, region, device, known[region.name]) for region, device in federation.scenario.devices()],
    )


async def _ask(session: aiohttp.ClientSession, federation: Federation, coordinator: str) -> _Coordinator | None:
    if federation.address(coordinator) is None:
        return None
    try:
        async with session.get(f"{federation.url(coordinator)}/v1/admin/status") as response:
            response.raise_for_status()
            return msgspec.json.decode(await response.read(), type=_Coordinator)
    except (aiohttp.ClientError, TimeoutError):
        return None


def _region(region: Region, told: _Coordinator | None, evaluated: RegionRecord | None) -> LiveRegion:
    if told is None:
        return LiveRegion(name=region.name, coordinator=region.coordinator, reachable=False)
    return LiveRegion(
        name=region.name,
        coordinator=region.coordinator,
        reachable=True,
        version=told.version,
        age=told.age,
        updates=told.updates_accepted,
        devices_connected=sum(device.connected for device in told.devices.values()),
        regional_accuracy=evaluated.accuracy("regional") if evaluated else None,
        federated_accuracy=evaluated.accuracy("federated") if evaluated else None,
        regional_loss=evaluated.loss("regional") if evaluated else None,
        federated_loss=evaluated.loss("federated") if evaluated else None,
    )


def _device(federation: Federation, region: Region, device: Device, told: _Coordinator | None) -> LiveDevice:
    seen = told.devices.get(device.name, _Device()) if told is not None else _Device()
    try:
        own = agent_status.read(federation.state_dir(device.name))
    except StorageError:
        own = None  # shown as unknown; its log says more
    if own is None:
        return LiveDevice(name=device.name, region=region.name, profile=device.profile, connected=seen.connected)
    return LiveDevice(
        name=device.name,
        region=region.name,
        profile=device.profile,
        connected=seen.connected,
        updates=seen.updates,
        steps_per_cycle=own.steps_per_cycle,
        seconds_per_step=own.seconds_per_step,
        idle_share=own.idle_share,
        sent_bytes=own.sent_bytes,
        last_loss=own.last_loss,
    )
