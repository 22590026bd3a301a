"""Who may ask for what, decided without a connection."""

from pathlib import Path
from typing import Any

import pytest

from coordinator.authorization import WANTED, judge, wanted
from skerry.identity.certificate import Identified, Role, Subject

FEDERATION = "0123456789abcdef"
PARTIES = {"agent", "coordinator", "admin"}
ANYONE: set[str | None] = {None, *PARTIES}
MATRIX: dict[str, set[str] | set[str | None]] = {
    "/healthz": ANYONE,
    "/readyz": ANYONE,
    "/v1/enrolment/root": ANYONE,
    "/v1/enrolment/join": ANYONE,
    "/v1/enrolment/renew": PARTIES,
    "/v1/agents/stream": {"agent"},
    "/v1/bundles/{sha256}": PARTIES,
    "/v1/model": PARTIES,
    "/v1/region": PARTIES,
    "/v1/federation/model": {"coordinator"},
    "/v1/federation/token": {"coordinator"},
    "/v1/federation/status": {"coordinator"},
    "/v1/federation/revocations": {"coordinator"},
    "/v1/admin/status": {"admin"},
    "/v1/admin/join-tokens": {"admin"},
    "/metrics": {"admin", "coordinator"},
    "/v1/whatever-comes-later": {"admin"},
    "/": {"admin"},
}


def party(role: Role, name: str = "someone", not_after_s: float = 100.0) -> Identified:
    return Identified(Subject(FEDERATION, role, name), "ab" * 32, "1", 0.0, not_after_s)


def reason(resource: str, caller: Identified | None, now_s: float = 50.0, **more: Any) -> str | None:
    found = judge(resource, caller, "eu-1", now_s, more.get("revoked", lambda _: False))
    return None if found is None else found.reason


@pytest.mark.parametrize("role", [None, "agent", "coordinator", "admin"])
@pytest.mark.parametrize("resource", MATRIX)
def test_each_resource_is_for_its_roles(resource: str, role: Role | None) -> None:
    expected = None if role in MATRIX[resource] else "certificate" if role is None else "role"
    assert reason(resource, None if role is None else party(role)) == expected


def test_a_coordinator_may_be_its_own_operator_and_no_other_s() -> None:
    assert reason("/v1/admin/status", party("coordinator", "eu-1")) is None
    assert reason("/v1/admin/status", party("coordinator", "us-1")) == "role"
    assert reason("/v1/admin/status", party("agent", "eu-1")) == "role"


def test_a_revoked_certificate_counts_nowhere_but_where_none_is_needed() -> None:
    stolen = party("admin")
    for resource, roles in MATRIX.items():
        expected = None if None in roles else "revoked"
        assert reason(resource, stolen, revoked=lambda caller: caller is stolen) == expected


def test_a_certificate_that_expires_while_its_connection_stands_counts_no_more() -> None:
    assert reason("/v1/model", party("agent"), now_s=100.0) is None
    assert reason("/v1/model", party("agent"), now_s=100.1) == "expired"


def test_a_refusal_says_what_to_do() -> None:
    found = judge("/v1/model", None, "eu-1", 0.0, lambda _: False)
    assert found is not None
    assert "join" in found.detail


def test_what_is_not_named_is_for_operators_alone() -> None:
    assert wanted("/v2/model") == frozenset({"admin"})
    assert wanted("/v1/enrolment") == frozenset({"admin"})


def test_every_resource_of_a_coordinator_is_named() -> None:
    source = Path(__file__).resolve().parents[3] / "coordinator" / "api.py"
    resources = [line.split('"')[1] for line in source.read_text().splitlines() if ".router.add_" in line]
    assert len(resources) > 9
    assert all(any(resource.startswith(start) for start in WANTED) for resource in resources)
