"""Networks that tags of prompts switch on."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from modules import errors

extra_network_registry: dict[str, ExtraNetwork] = {}
_TAG = re.compile(r"<(\w+):([^>]+)>")


class ExtraNetworkParams:
    def __init__(self, items: list[Any] | None = None) -> None:
        self.items = items or []
        self.positional: list[Any] = []
        self.named: dict[str, str] = {}
        for item in self.items:
            pair = item.split("=", 2)
            if len(pair) == 2:
                self.named[pair[0]] = pair[1]
            else:
                self.positional.append(item)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExtraNetworkParams) and self.items == other.items


class ExtraNetwork:
    def __init__(self, name: str) -> None:
        self.name = name

    def activate(self, p: Any, params_list: list[ExtraNetworkParams]) -> None:
        raise NotImplementedError

    def deactivate(self, p: Any) -> None:
        raise NotImplementedError


def register_extra_network(extra_network: ExtraNetwork) -> None:
    extra_network_registry[extra_network.name] = extra_network


def activate(p: Any, extra_network_data: Any) -> None:
    for name, network in extra_network_registry.items():
        try:
            network.activate(p, extra_network_data.get(name, []))
        except Exception as error:
            errors.display(error, f"activating {name}")


def deactivate(p: Any, extra_network_data: Any) -> None:
    for network in extra_network_registry.values():
        network.deactivate(p)


def parse_prompts(prompts: list[str]) -> tuple[list[str], Any]:
    """Return prompts without tags, and the tags of the first one."""
    found: list[dict[str, list[ExtraNetworkParams]]] = []
    plain = []
    for prompt in prompts:
        tags = defaultdict(list)
        for name, inner in _TAG.findall(prompt):
            tags[name].append(ExtraNetworkParams(items=inner.split(":")))
        found.append(tags)
        plain.append(_TAG.sub("", prompt))
    return plain, found[0] if found else None
