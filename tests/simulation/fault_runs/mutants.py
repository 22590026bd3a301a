"""Planted defects: each is the production code with a few words of one function replaced, while one runs under it.

A run that does not notice them would notice nothing. A mutant whose place in the source is gone or not the only one of
its kind fails loudly: `MutantLostError`.
"""

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

from coordinator import checkpoint, engine, federation, recovery, region, roaming
from edge_agent import device, outbox
from skerry.algorithms import token


class MutantLostError(Exception):
    """The source has changed: the mutant must be written anew, or thrown away."""


@dataclass(frozen=True, slots=True)
class Edit:
    """In the function `name` (`function` or `Class.method`) of `module`, each `before` becomes its `after`."""

    module: ModuleType
    name: str
    replacements: dict[str, str]

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Run under it.

        Raises:
            MutantLostError: the function is gone, or does not hold each `before` exactly once.
        """
        original = self.function()
        source = textwrap.dedent(inspect.getsource(original))
        for before, after in self.replacements.items():
            if source.count(before) != 1:
                found = f"{self.module.__name__}.{self.name} holds {before!r} {source.count(before)} times, not once"
                raise MutantLostError(found)
            source = source.replace(before, after)
        made: dict[str, Any] = {}
        exec(compile(source, f"<mutant of {self.name}>", "exec"), vars(self.module), made)
        code = original.__code__
        original.__code__ = made[original.__name__].__code__  # not the name: whoever imported the function has it, too
        try:
            yield
        finally:
            original.__code__ = code

    def function(self) -> FunctionType:
        """Return the function that is changed.

        Raises:
            MutantLostError: there is none of that name.
        """
        found: Any = self.module
        for one in self.name.split("."):
            found = getattr(found, one, None)
        if not isinstance(found, FunctionType):
            raise MutantLostError(f"{self.module.__name__} has no function {self.name}")
        return found


@dataclass(frozen=True, slots=True)
class Mutant:
    """One defect."""

    name: str
    says: str  # what it does wrong
    edits: tuple[Edit, ...]

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Run under it; see `Edit.planted`."""
        with ExitStack() as edits:
            for edit in self.edits:
                edits.enter_context(edit.planted())
            yield


MUTANTS = (
    Mutant(
        "acknowledge before commit",
        "the coordinator applies and answers while its disk is still writing",
        (
            Edit(
                engine,
                "Engine._work",
                {"await self._run_in_thread(lambda: self._w": "late = self._run_in_thread(lambda: self._w"},
            ),
        ),
    ),
    Mutant(
        "forget the ledger",
        "a restarted coordinator does not know which updates it has",
        (Edit(recovery, "recover", {"ledger=Ledger(ledger)": "ledger=Ledger()"}),),
    ),
    Mutant(
        "take a repeat for a new update",
        "the newest update of a device is applied again when it is sent again",
        (
            Edit(
                region,
                "Region._update_arrived",
                {"offered.sequence <= ledger": "offered.sequence < ledger"},
            ),
        ),
    ),
    Mutant(
        "keep both copies",
        "an update that another region took, too, is not taken back",
        (Edit(roaming, "Roaming._stays", {"return line.moves > 0 and": "return line.moves > 99 and"}),),
    ),
    Mutant(
        "take back another weight",
        "what is taken back is not what was applied",
        (Edit(roaming, "Roaming.update_found", {"found, -found.weight, age)": "found, -1.0, age)"}),),
    ),
    Mutant(
        "take back what was answered again",
        "an update that was answered once more while it was looked up is taken back all the same",
        (
            Edit(
                roaming,
                "Roaming.update_found",
                {"not (recent.counts_here and self._stays(recent, peer, line))": "not recent.counts_here"},
            ),
        ),
    ),
    Mutant(
        "take what a peer has",
        "an update that a peer's ledger has is applied here, too, and stays",
        (
            Edit(roaming, "Roaming._learn", {"known[line.sequence] = peer, line": "pass"}),
            Edit(roaming, "Roaming._stays", {"return line.moves > 0 and": "return line.moves > 99 and"}),
        ),
    ),
    Mutant(
        "replay without weight",
        "a restarted coordinator applies updates whole",
        (
            Edit(
                recovery,
                "_replay",
                {"state.apply(update, row.weight, row.version": "state.apply(update, 1.0, row.version"},
            ),
        ),
    ),
    Mutant(
        "forget held updates",
        "a restarted coordinator does not apply what the arrival rule held",
        (Edit(recovery, "recover", {"held=[_held(row) for row in held_rows]": "held=[]"}),),
    ),
    Mutant(
        "age back at a restart",
        "a checkpoint's age is forgotten",
        (
            Edit(
                checkpoint,
                "_decode",
                {"        age=scalars.age,\n        published": "        age=0.0,\n        published"},
            ),
        ),
    ),
    Mutant(
        "age of the peer at a merge",
        "the merged model takes the peer's age, so that it may go back",
        (
            Edit(
                token,
                "TokenMachine.model_arrived",
                {"MergePeer(sender, weight, age)": "MergePeer(sender, weight, peer_age)"},
            ),
        ),
    ),
    Mutant(
        "merge a peer's model twice",
        "what a peer sends again is taken and merged again",
        (
            Edit(
                federation,
                "Federation.peer_model_arrived",
                {
                    "message.publication <= held.publication": "message.publication < held.publication",
                    "held.publication == message.base": "held.publication >= message.base",
                },
            ),
            Edit(
                federation,
                "Federation._judge",
                {
                    "return judged.counts, ": "return judged.counts or event.measured is None, "
                },  # nobody measures a repeat
            ),
            Edit(
                token,
                "TokenMachine.model_arrived",
                {"if broadcast > self._merged.get(sender, NO_ID):": "if broadcast >= self._merged.get(sender, NO_ID):"},
            ),
        ),
    ),
    Mutant(
        "drop the token",
        "now and then the token is passed on to nobody",
        (
            Edit(
                federation,
                "Federation._translate",
                {"effects.append(SendToken(to, token))": "effects += [SendToken(to, token)][: broadcast[1] % 16]"},
            ),
        ),
    ),
    Mutant(
        "never make the token anew",
        "a token that was lost, or whose holder died, stays so",
        (
            Edit(token, "TokenMachine.tick", {"self._make_token(now_s)": "pass"}),
            Edit(token, "TokenMachine.__init__", {"self._make_token(now_s)": "pass"}),
        ),
    ),
    Mutant(
        "take any token",
        "a token of the past is taken for the present one",
        (
            Edit(
                token,
                "TokenMachine.token_arrived",
                {"if broadcast > self._last_token and broadcast >= self._known:": "if True:"},
            ),
        ),
    ),
    Mutant(
        "stop while peers are slow",
        "a region applies no update while its exchange waits for a peer",
        (
            Edit(
                region,
                "Region._weights",
                {"self._federation.blocks": "getattr(self._federation._machine._held, 'deadline_s', None)"},
            ),
        ),
    ),
    Mutant(
        "drop what was not acknowledged",
        "a device forgets its unanswered updates when the stream ends",
        (
            Edit(
                device,
                "Device.handle",
                {"self._welcomed = False": "self._welcomed = bool(self._waiting.clear())"},
            ),
        ),
    ),
    Mutant(
        "no resume",
        "a device does not send again what was not answered before",
        (Edit(device, "Device._welcome_received", {"in sorted(self._waiting)": "in ()"}),),
    ),
    Mutant(
        "drop what a weight left out",
        "what the coordinator did not apply does not go back to the residual",
        (Edit(outbox, "Outbox._give_back", {"if weight is not None and": "if weight == 0.0 and"}),),
    ),
    Mutant(
        "drop what was rejected",
        "a rejected update does not go back to the residual",
        (Edit(device, "Device._receive", {"None if dropped else 0.0": "None"}),),
    ),
    Mutant(
        "forget what came back",
        "a restarted device has lost what went back to its residual since that was written",
        (Edit(outbox, "Outbox.replay", {"self._give_back(update, update.settled_weight)": "pass"}),),
    ),
)
