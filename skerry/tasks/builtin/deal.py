"""Which part of a data set a device has: the options of its data source, and what they choose."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from skerry.errors import DataError
from skerry.tasks import partition
from skerry.tasks.options import positive_number, whole_number
from skerry.tasks.partition import Between, Owners

PARTITIONS = ("iid", "shards", "dirichlet", "natural")
SEED_MAX = 1 << 32
LABELS_MAX = 1 << 16


@dataclass(frozen=True, slots=True)
class Deal:
    """`part`, counted from 0, of `parts`; a `skerry.tasks.partition` says who has what."""

    part: int = 0
    parts: int = 1
    partition: str = "iid"
    labels: int = 2  # of a part, at most; shards only
    alpha: float = 0.5  # dirichlet only
    seed: int = 0
    groups: int = 1  # that parts form; shards only
    between: Between = "alike"  # groups are alike in their labels, or skewed; shards only

    @classmethod
    def parse(cls, options: dict[str, str], partition_by_default: str) -> "Deal":
        """Take from the options of a data source those that say which part is meant.

        Raises:
            DataError: an option is malformed, out of range, or belongs to another partition.
        """
        chosen = options.pop("partition", partition_by_default)
        if chosen not in PARTITIONS:
            raise DataError(f"data source option partition={chosen}: is none of {', '.join(PARTITIONS)}")
        for option, owner in (
            ("labels", "shards"), ("groups", "shards"), ("between", "shards"), ("alpha", "dirichlet")
        ):  # fmt: skip
            if option in options and chosen != owner:
                raise DataError(f"data source option {option}: belongs to partition={owner}, this is {chosen}")
        between = options.pop("between", "alike")
        if between not in {"alike", "skewed"}:
            raise DataError(f"data source option between={between}: is none of alike, skewed")
        default = cls()
        deal = cls(
            part=whole_number(options, "part", default.part, partition.PARTS_MAX),
            parts=whole_number(options, "parts", default.parts, partition.PARTS_MAX),
            partition=chosen,
            labels=whole_number(options, "labels", default.labels, LABELS_MAX),
            groups=whole_number(options, "groups", default.groups, partition.PARTS_MAX),
            between="skewed" if between == "skewed" else "alike",
            alpha=positive_number(options, "alpha", default.alpha),
            seed=whole_number(options, "seed", default.seed, SEED_MAX),
        )
        if deal.part >= deal.parts:
            raise DataError(
                f"data source option part={deal.part}: must be 0 to {deal.parts - 1}, as parts={deal.parts}"
            )
        return deal

    def by_class(self, train: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> Owners:
        """Deal examples with one class each; `train` are the classes of all training examples, `labels` those to deal.

        Raises:
            DataError: the partition is impossible here.
        """
        match self.partition:
            case "shards":
                shares = partition.shard_shares(
                    train, self.parts, self.labels, self.seed, groups=self.groups, between=self.between
                )
                return partition.by_shares(labels, shares, self.seed)
            case "dirichlet":
                shares = partition.dirichlet_shares(train, self.parts, self.alpha, self.seed)
                return partition.by_shares(labels, shares, self.seed)
            case "natural":
                raise DataError("data source option partition=natural: nobody knows who made these examples")
        return partition.iid(len(labels), self.parts, self.seed)

    def by_client(self, clients: npt.NDArray[np.int64], client_count: int) -> Owners:
        """Deal examples whose clients are known, but which have no single class.

        Raises:
            DataError: the partition is impossible here.
        """
        match self.partition:
            case "natural":
                return partition.natural(clients, client_count, self.parts)
            case "shards" | "dirichlet":
                raise DataError(
                    f"data source option partition={self.partition}: needs one class per example, "
                    "text has one per position: take natural or iid"
                )
        return partition.iid(len(clients), self.parts, self.seed)
