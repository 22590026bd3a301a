"""Histories of the region's model that an operator gave up: what devices made on them counts no more. Pure."""

import msgspec

from skerry.protocol.messages import ModelVersion

KEPT_MAX = 64  # lineages; no device brings an older one


class GivenUp(msgspec.Struct, frozen=True, tag="given_up"):
    """What a coordinator must not forget."""

    after: dict[str, int] = {}  # by lineage: the newest version that was not given up; -1: none

    def holds(self, base: ModelVersion) -> bool:
        """Say whether the model `base` was given up."""
        return base.number > self.after.get(base.lineage, base.number)

    def back_to(self, good: ModelVersion, lineage: str) -> "GivenUp":
        """Return what was given up once the region, which was at `lineage`, has gone back to `good`."""
        after = {**self.after, lineage: -1}
        if good.lineage in after:
            after[good.lineage] = good.number
        return GivenUp(dict(list(after.items())[-KEPT_MAX:]))
