"""The extra network `shira`: what the WebUI knows of our tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modules import extra_networks

from . import tag


class ShiraNetwork(extra_networks.ExtraNetwork):
    """Has the WebUI take our tags out of prompts; `job` acts on them after all networks."""

    def __init__(self) -> None:
        super().__init__(tag.KIND)

    def activate(self, p: Any, params_list: Sequence[Any]) -> None:
        """Leave it to `job.put_on`, which comes after the networks that start afresh."""

    def deactivate(self, p: Any) -> None:
        """Leave it to the end of the job, which comes in any case."""


def register() -> None:
    """Tell the WebUI of the network."""
    extra_networks.register_extra_network(ShiraNetwork())
