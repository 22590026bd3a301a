"""Coordinators joined by hand in a world with faults: what the token machine promises holds for hundreds of seeds.

A message is lost by not delivering it, repeated by delivering it twice; a coordinator dies by forgetting everything but
its last snapshot. First the faults, during which only safety counts; then none, and everything must live again.
"""

import heapq
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random

import pytest

from skerry.algorithms.federation import SpykerToken
from skerry.algorithms.token import Id, MergePeer, PassToken, Publish, TokenEffect, TokenMachine, TokenState

FAULTS_END_S = 40.0
RULE = SpykerToken(peer_timeout_s=3.0, token_timeout_s=6.0)
STATUS_S = 0.5
# The longest way back: a coordinator returns last of all, the token is missed, and makes a few rounds.
RECOVERED_S = FAULTS_END_S + 25.0
END_S = RECOVERED_S + 15.0


@dataclass
class Server:
    name: str
    devices: int
    updates_per_s: float
    machine: TokenMachine | None = None  # None: dead
    disk: TokenState | None = None
    age: float = 0.0
    life: int = 0  # rises when the disk is lost
    merged: Counter[tuple[int, str, Id]] = field(default_factory=Counter)
    merged_at_s: dict[str, float] = field(default_factory=dict)
    published: list[tuple[int, Id]] = field(default_factory=list)


class World:
    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        names = [f"region-{letter}" for letter in "abcde"[: self.random.randint(2, 5)]]
        self.servers = {
            name: Server(name, self.random.choice([3, 25]), self.random.choice([0.05, 2.0, 8.0])) for name in names
        }
        self.servers[self.random.choice(names)].updates_per_s = 8.0  # or no exchange may be due in the time we watch
        self.now_s = 0.0
        self.order = itertools.count()
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.loss, self.repeat, self.delay_max_s = 0.15, 0.15, self.random.choice([0.05, 0.5])
        self.cut: set[str] = set()  # on one side of a partition
        for server in self.servers.values():
            self.after(self.random.uniform(0.0, 3.0), partial(self.start, server))
            self.after(0.1, partial(self.update, server))
            self.after(0.1, partial(self.poll, server))
        self.after(5.0, self.fault)
        self.recovered_epoch = -1
        self.after(RECOVERED_S, self.recovered)

    def after(self, delay_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (self.now_s + delay_s, next(self.order), act))

    def run(self) -> None:
        while self.queue and self.queue[0][0] < END_S:
            self.now_s, _, act = heapq.heappop(self.queue)
            act()

    def recovered(self) -> None:
        self.recovered_epoch = max(self.epochs())

    def epochs(self) -> set[int]:
        return {server.machine.token[0] for server in self.servers.values() if server.machine is not None}

    # --- what happens by itself ---

    def update(self, server: Server) -> None:
        self.after(self.random.expovariate(server.updates_per_s), partial(self.update, server))
        if server.machine is not None:
            server.age += 1.0
            self.perform(server, server.machine.updated(server.age, server.devices, self.now_s))

    def poll(self, server: Server) -> None:
        """Ask every peer for its status; the answer is a sign of life for the one who asked."""
        self.after(STATUS_S, partial(self.poll, server))
        for peer in self.servers.values():
            if peer is not server and peer.machine is not None:
                known = peer.machine.token
                self.send(peer, server, partial(self.seen, server, peer.name, known))

    def seen(self, server: Server, peer: str, known: Id) -> None:
        assert server.machine is not None
        server.machine.peer_seen(peer, known, self.now_s)
        self.perform(server, [])

    def fault(self) -> None:
        if self.now_s >= FAULTS_END_S:
            self.loss = self.repeat = 0.0
            self.cut = set()
            return
        self.after(self.random.uniform(1.0, 6.0), self.fault)
        match self.random.choice(["cut", "heal", "kill", "kill holder"]):
            case "cut":
                self.cut = {name for name in self.servers if self.random.random() < 0.5}
            case "heal":
                self.cut = set()
            case kind:
                alive = [server for server in self.servers.values() if server.machine is not None]
                holders = [server for server in alive if server.machine is not None and server.machine.holds]
                victims = holders if kind == "kill holder" and holders else alive
                if victims:
                    self.kill(self.random.choice(victims))

    def kill(self, victim: Server) -> None:
        victim.machine = None
        if self.random.random() < 0.2:
            victim.disk, victim.age, victim.life = None, 0.0, victim.life + 1
        delay_s = min(self.random.uniform(0.1, 20.0), FAULTS_END_S - self.now_s)
        self.after(delay_s, partial(self.start, victim))

    def start(self, server: Server) -> None:
        if server.machine is None:
            peers = [name for name in self.servers if name != server.name]
            machine = RULE.start(server.name, peers, self.now_s, server.disk)
            assert isinstance(machine, TokenMachine)
            server.machine = machine
            self.perform(server, [])

    # --- the shell ---

    def send(self, sender: Server, to: Server, deliver: Callable[[], None]) -> None:
        for _ in range(2 if self.random.random() < self.repeat else 1):
            if self.random.random() < self.loss or (sender.name in self.cut) != (to.name in self.cut):
                continue
            delay_s = self.random.uniform(0.001, self.delay_max_s)
            self.after(delay_s, lambda: deliver() if to.machine is not None else None)

    def perform(self, server: Server, effects: list[TokenEffect]) -> None:
        """Save the state, then do what the machine said, in order."""
        machine = server.machine
        assert machine is not None
        if server.disk is not None:
            assert machine.token >= server.disk.known, "what is known never goes back"
        server.disk = machine.snapshot()
        for effect in effects:
            match effect:
                case Publish(broadcast):
                    server.published.append((server.life, broadcast))
                    for peer in self.others(server):
                        self.send(server, peer, partial(self.model, peer, server, broadcast, server.age))
                case MergePeer(peer_name, weight, age):
                    assert 0.0 < weight <= RULE.eta_a
                    server.age = age
                    server.merged_at_s[peer_name] = self.now_s
                    life = self.servers[peer_name].life
                    server.merged[server.life, f"{peer_name}/{life}", server.disk.merged[peer_name]] += 1
                case PassToken(to, broadcast, ages):
                    assert not machine.holds
                    self.send(server, self.servers[to], partial(self.token, self.servers[to], server, broadcast, ages))
        self.wake(server, machine)

    def others(self, server: Server) -> list[Server]:
        return [peer for peer in self.servers.values() if peer is not server]

    def model(self, receiver: Server, sender: Server, broadcast: Id, age: float) -> None:
        assert receiver.machine is not None
        effects = receiver.machine.model_arrived(sender.name, broadcast, age, receiver.age, self.now_s)
        if any(isinstance(effect, Publish) for effect in effects):
            assert isinstance(effects[0], Publish), "publish before merging"
        self.perform(receiver, effects)

    def token(self, receiver: Server, sender: Server, broadcast: Id, ages: dict[str, float]) -> None:
        assert receiver.machine is not None
        effects = receiver.machine.token_arrived(sender.name, broadcast, ages, receiver.age, self.now_s)
        self.perform(receiver, effects)

    def wake(self, server: Server, machine: TokenMachine) -> None:
        wake_at_s = machine.wake_at_s
        if wake_at_s is not None:
            self.after(max(0.0, wake_at_s - self.now_s), partial(self.tick, server, machine, wake_at_s))

    def tick(self, server: Server, machine: TokenMachine, due_s: float) -> None:
        if server.machine is machine and machine.wake_at_s == due_s:
            effects = machine.tick(server.age, server.devices, self.now_s)
            assert (machine.wake_at_s or END_S) > self.now_s, "a wake-up moves on"
            self.perform(server, effects)


@pytest.mark.parametrize("seed", range(200))
def test_token_survives_losses_repeats_deaths_and_partitions(seed: int) -> None:
    world = World(seed)
    world.run()
    for server in world.servers.values():
        assert max(server.merged.values()) == 1, "a model is merged once"
        published = server.published
        assert published == sorted(set(published)), "an id is published once, and ids only rise"
        for peer in world.others(server):
            assert server.merged_at_s[peer.name] > RECOVERED_S, f"{server.name} stopped merging {peer.name}"
    machines = [server.machine for server in world.servers.values() if server.machine is not None]
    assert len([machine for machine in machines if machine.holds]) <= 1, "one token"
    assert world.epochs() == {world.recovered_epoch}, "nobody makes a token without need"
