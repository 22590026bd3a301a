"""Stage `participation`: when a device trains: all the time, or once for each model that it is offered."""

from typing import ClassVar

import msgspec


class Always(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="always"):
    """Cycle after cycle on the newest model at hand; the device never waits for an answer."""

    waits: ClassVar[bool] = False


class OnOffer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="rule", tag="on_offer"):
    """One cycle for each model that the coordinator offers, then wait for the next one.

    The client of FedAvg (McMahan et al. 2017, arXiv:1602.05629), to which a model means that it is selected, and of
    Spyker (2024, arXiv:2406.01439) and FedAsync (Xie et al. 2019, arXiv:1903.03934), which wait for their server's
    reply. An offer may repeat the version that the device holds already: it is an invitation all the same.
    """

    waits: ClassVar[bool] = True


Participation = Always | OnOffer
