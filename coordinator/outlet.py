"""Whom the engine tells: who carries its messages away, and who counts what happens."""

from typing import Protocol

from skerry.protocol.messages import (
    ModelVersion,
    PeerModel,
    TokenPassed,
    UpdateAccepted,
    UpdateRejected,
    Welcome,
)


class Outlet(Protocol):
    """Where messages leave. Nothing here may block; what is for a device that is gone is dropped."""

    def send_to_device(self, device: str, message: Welcome | UpdateAccepted | UpdateRejected) -> None:
        """Queue a message on the device's stream."""

    def offer_model(
        self, device: str, version: ModelVersion, base: ModelVersion | None, age: float, payload: bytes
    ) -> None:
        """Queue a model, in parts; `OfferDone` is to be submitted when the last one is written."""

    def send_to_peer(self, peer: str, message: PeerModel | TokenPassed) -> None:
        """Queue a message to a peer."""


class Observer(Protocol):
    """Who counts what happens."""

    def committed(self, seconds: float, updates: int) -> None:
        """A group was brought to disk."""

    def update_applied(self, staleness: float) -> None:
        """An update was journalled."""
