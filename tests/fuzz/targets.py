"""What strangers can send or leave lying about, each with inputs to begin from and the one error that it may end in."""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from coordinator import checkpoint
from coordinator.checkpoint import Checkpoint, CheckpointError
from coordinator.config import CoordinatorConfig
from coordinator.enrolment.records import Revocation, parse_page
from coordinator.model_state import ModelState
from edge_agent.config import AgentConfig
from skerry import toml_file
from skerry.errors import ConfigError
from skerry.identity import certificate, join_token, request
from skerry.identity.authority import make_key, make_root
from skerry.identity.certificate import Subject, der_of
from skerry.identity.errors import InvalidCertificateError, InvalidJoinTokenError
from skerry.identity.join_token import JoinToken
from skerry.profile import Profile
from skerry.protocol import frames, ledger_lines, sparse
from skerry.protocol.errors import MalformedMessage, MalformedVector
from skerry.protocol.ledger_lines import LedgerLine
from skerry.protocol.limits import FRAME_BYTES_MAX
from skerry.protocol.messages import Enrolling, FromAgent, FromCoordinator, FromPeer
from skerry.recipe import Recipe
from skerry.tasks import manifest
from skerry.tasks.bundle import Bundle
from skerry.tasks.manifest import MalformedBundle

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "protocol" / "golden"
BUNDLE = ROOT / "skerry" / "tasks" / "activity" / "activity.skerry"
VECTOR_SIZES = (0, 3, 16, 1000, 1 << 20)
NOW_S = 1_800_000_000.0
COORDINATOR = """
name = "eu-1"
region = "eu"
bundle = "builtin:activity"
insecure = true
[peers]
us-1 = "https://us-1.example:8470"
[listen]
host = "0.0.0.0"
port = 8470
[limits]
frame_bytes_max = 1048576
[recipe.arrival]
rule = "spyker"
[recipe.federation]
rule = "spyker_token"
phi = 1.5
"""
AGENT = """
device = "greenhouse-7"
coordinators = ["https://eu-1.example:8470"]
[data]
source = "csv:/srv/readings.csv"
[training]
threads = 2
[policy]
enabled = false
quiet_hours = ["22:00-06:00"]
"""


@dataclasses.dataclass(frozen=True)
class Target:
    """One reader of untrusted bytes."""

    read: Callable[[bytes], object]  # and whatever must hold of what was read
    refusal: type[Exception]
    begin: tuple[bytes, ...]
    cost: int = 1  # in thousandths of the time: it is run so much less often
    bytes_max: int = 1 << 16  # of an input


def targets(folder: Path) -> dict[str, Target]:
    """Return all of them by name; those that read files put them in `folder`."""
    signed, asked = _certificates()
    return {
        "agent-frame": Target(_frame(FromAgent), MalformedMessage, _golden("messages")),
        "coordinator-frame": Target(_frame(FromCoordinator), MalformedMessage, _golden("messages")),
        "peer-frame": Target(_frame(FromPeer), MalformedMessage, _golden("messages")),
        "enrolling-frame": Target(_frame(Enrolling), MalformedMessage, _golden("messages")),
        "vector": Target(_vector, MalformedVector, _golden("vectors")),
        "ledger-lines": Target(_ledger_lines, MalformedMessage, (ledger_lines.encode(LINES),)),
        "revocations": Target(_revocations, MalformedMessage, (REVOKED,)),
        "manifest": Target(_manifest, MalformedBundle, (manifest.encode(Bundle.open(BUNDLE).manifest),)),
        "bundle": Target(_bundle(folder), MalformedBundle, (BUNDLE.read_bytes(),), cost=8, bytes_max=1 << 18),
        "coordinator-config": Target(_toml(CoordinatorConfig), ConfigError, (COORDINATOR.encode(),)),
        "agent-config": Target(_toml(AgentConfig), ConfigError, (AGENT.encode(),)),
        "recipe": Target(_toml(Recipe), ConfigError, _files("testbed/recipes")),
        "profile": Target(_toml(Profile), ConfigError, _files("profiles")),
        "join-token": Target(_join_token, InvalidJoinTokenError, (TOKEN.text().encode(),)),
        "certificate": Target(_certificate, InvalidCertificateError, signed, cost=2),
        "certificate-request": Target(request.public_key, InvalidCertificateError, (asked,), cost=2),
        "checkpoint": Target(_checkpoint(folder), CheckpointError, (_checkpoint_bytes(),), cost=2),
    }


REVOKED = "\n".join(sorted(Revocation("agent", name, 64 * "a").text() for name in ("kite", "kite-2", "tern"))).encode()
LINES = [LedgerLine("kite", 7, 0.5, 0), LedgerLine("tern", 1 << 40, None, 3)]
TOKEN = JoinToken(bytes(range(32)), bytes(8), bytes(range(16)))
ROOT_AUTHORITY = make_root("0123456789abcdef", NOW_S)


def _golden(folder: str) -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(path.read_text()) for path in sorted((GOLDEN / folder).glob("*.hex")))


def _files(folder: str) -> tuple[bytes, ...]:
    found = tuple(path.read_bytes() for path in sorted((ROOT / folder).glob("*.toml")))
    assert found, folder
    return found


def _frame(kind: Any) -> Callable[[bytes], object]:
    def read(data: bytes) -> None:
        message = frames.decode(data, kind, bytes_max=FRAME_BYTES_MAX)
        again = frames.encode(message)
        assert frames.encode(frames.decode(again, kind, bytes_max=2 * FRAME_BYTES_MAX)) == again

    return read


def _vector(data: bytes) -> None:
    size = VECTOR_SIZES[len(data) % len(VECTOR_SIZES)]
    vector = sparse.decode(data, size=size)
    assert len(vector.indices) == len(vector.values) <= size == vector.size
    assert (np.diff(vector.indices, prepend=-1) > 0).all()
    assert (vector.indices < size).all()
    assert np.isfinite(vector.values).all()


def _ledger_lines(data: bytes) -> None:
    lines = ledger_lines.decode(data)
    assert ledger_lines.decode(ledger_lines.encode(lines)) == lines


def _revocations(data: bytes) -> None:
    texts = data.decode("utf-8", errors="replace").split("\n")
    page = parse_page(texts, "")
    if page is None:
        raise MalformedMessage("no page of revocations")
    assert [one.text() for one in page] == sorted(set(texts))


def _manifest(data: bytes) -> None:
    read = manifest.decode(data, "fuzz")
    assert manifest.decode(manifest.encode(read), "fuzz") == read


def _bundle(folder: Path) -> Callable[[bytes], object]:
    path = folder / "fuzz.skerry"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        bundle = Bundle.open(path)
        assert len(bundle.initial_parameters()) == bundle.manifest.layout.size

    return read


def _toml(kind: type[Any]) -> Callable[[bytes], object]:
    def read(data: bytes) -> None:
        toml_file.parse(data.decode("utf-8", errors="replace"), kind, "fuzz")

    return read


def _join_token(data: bytes) -> None:
    token = join_token.parse(data.decode("utf-8", errors="replace"))
    assert join_token.parse(token.text()) == token


def _certificate(data: bytes) -> None:
    found = certificate.identify(data, ROOT_AUTHORITY.certificate)
    assert found.subject == certificate.subject_of(data)
    assert found.subject.federation == ROOT_AUTHORITY.federation


def _certificates() -> tuple[tuple[bytes, ...], bytes]:
    """Return certificates of every role, and a request for one."""
    key = make_key()
    federation = ROOT_AUTHORITY.federation
    signed = tuple(
        der_of(ROOT_AUTHORITY.issue(Subject(federation, role, "eu-1"), key.public_key(), NOW_S))
        for role in ("agent", "coordinator", "admin")
    )
    return signed, request.make(key)


def _checkpoint(folder: Path) -> Callable[[bytes], object]:
    path = folder / "000000000001.safetensors"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        found = checkpoint.read(path)
        assert len(found.state.model) == len(found.state.changed_at)

    return read


def _checkpoint_bytes() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        state = ModelState.start(np.linspace(-1.0, 1.0, 40, dtype=np.float32))
        return checkpoint.write(Path(folder), Checkpoint("eu/00000001", 0, state)).read_bytes()
