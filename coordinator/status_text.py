"""What a coordinator says of itself, for people: the words of `skerry-coordinator status`. No I/O."""

from collections.abc import Iterator
from typing import Any

PACES = {"slow": "slowed down", "pause": "paused"}
REASONS_CHARS_MAX = 200  # shown of one device's


def status_text(report: dict[str, Any]) -> str:
    """Return the report of `status --json` for people.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is no such report.
    """
    devices = report["devices"]
    lines = [
        f"coordinator {report['coordinator']}, region {report['region']}, up {report['uptime_s']:.0f} s",
        *(["drained     no agents are taken; a restart takes them again"] if report.get("drained") else []),
        f"model       {report['lineage']} version {report['version']}, age {report['age']:.1f}",
        f"updates     {report['updates_accepted']} accepted, {_rejected(report['rejected'])}, "
        f"{report['held_updates']} held, {report['uncommitted_updates']} on their way to the disk",
        f"cycle       {report['cycle_s']:.2f} s{_pace_of_updates(report)}",
        f"devices     {sum(one['connected'] for one in devices.values())} of {len(devices)} connected"
        + "".join(f", {count} {PACES[pace]}" for pace, count in report["paces"].items() if count and pace in PACES),
    ]
    lines += [
        f"  {name}: {one['updates']} updates"
        + ("" if one["connected"] else ", not connected")
        + (f", in quarantine: {_printable(one['quarantine'])}" if one["quarantine"] else "")
        + (f", {PACES[one['pace']]}: {_printable('; '.join(one['reasons']))}" if one["pace"] in PACES else "")
        for name, one in sorted(devices.items())
    ]
    lines += _held_out_lines(report["held_out"], countable=report["countable"])
    lines += [
        f"peer        {name}: {trouble or 'reachable'}{_refused(report['peers'].get(name))}"
        for name, trouble in sorted(report["peer_troubles"].items())
    ]
    for kind, one in sorted(report["evaluations"].items()):
        correct = one["correct"]
        accuracy = "none" if correct is None else f"{correct / max(one['examples'], 1):.4f}"
        lines.append(f"accuracy    {kind}: {accuracy} at version {one['version']}, loss {one['loss']:.4f}")
    return "\n".join(lines)


def _rejected(reasons: dict[str, int]) -> str:
    """Return how many updates were rejected, and why, the most frequent reason first."""
    counted = sorted(reasons.items(), key=lambda reason: (-reason[1], reason[0]))
    why = ", ".join(f"{count} {reason}" for reason, count in counted if count)
    return f"{sum(reasons.values())} rejected{f' ({why})' if why else ''}"


def _refused(replica: dict[str, Any] | None) -> str:
    """Return why a peer's model does not count, if it does not."""
    return f", its model is not merged: {_printable(replica['refused'])}" if replica and replica["refused"] else ""


def _pace_of_updates(report: dict[str, Any]) -> str:
    """Return what a region with rounds, a controlled rate or a barrier has to say of them."""
    round_text = "" if report["round"] is None else f", round {report['round']}"
    rate_text = "" if report["server_rate"] is None else f", server rate {report['server_rate']:.3g}"
    return f"{round_text}{rate_text}{', waits for its peers' if report['waits_for_peers'] else ''}"


def _printable(text: str) -> str:
    """Return what a device says so that it cannot steer a terminal, and not all of it where it says a lot."""
    return "".join(one if one.isprintable() else "?" for one in text[:REASONS_CHARS_MAX])


def _held_out_lines(held_out: dict[str, Any], *, countable: bool) -> Iterator[str]:
    """Yield how the models do on the devices' own held-out rows, as far as anything was scored there."""
    examples, own_examples = held_out["examples"], held_out["personal_examples"]
    if not examples:
        return
    accuracy = f"{held_out['correct'] / examples:.1%}" if countable else "none"
    loss = held_out["loss_sum"] / examples
    yield f"on devices  regional: {accuracy} of {examples} held-out examples, loss {loss:.4f}{_versions_text(held_out)}"
    if own_examples and countable:
        own = held_out["personal_correct"] / own_examples
        yield f"on devices  own heads: {own:.1%} of {own_examples} held-out examples"


def _versions_text(held_out: dict[str, Any]) -> str:
    """Say which models were scored, as far as devices told: not the newest, where they have not come to it yet."""
    oldest, newest = held_out["oldest_version"], held_out["newest_version"]
    if oldest is None:
        return ""
    return f", at version {oldest}" if oldest == newest else f", at versions {oldest} to {newest}"
