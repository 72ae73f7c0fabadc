"""A script inside the WebUI: seconds that SHiRA and the built-in Lora work, GET /bench/seconds.

GET /bench/forget has Lora drop its copies of weights, as in a WebUI where it was never used.

Ours: from tags to changed weights before a picture, and the way back after it. Lora's: reading its
files, and changing weights when a forward pass comes to them; its check of each weight in each
step, when nothing has changed, is in both and in neither figure.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import networks
from modules import script_callbacks, shared

from a1111_extension import job

SPENT: dict[str, float] = defaultdict(float)


def timed(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **given: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **given)
        finally:
            SPENT[kind] += time.perf_counter() - began

    return wrapped


def timed_if_needed(apply: Callable[[Any], None]) -> Callable[[Any], None]:
    """Time the change of a module's weights where Lora has something to change."""
    changing = timed("lora", apply)

    def wrapped(module: Any) -> None:
        wanted = tuple(
            (each.name, each.te_multiplier, each.unet_multiplier, each.dyn_dim)
            for each in networks.loaded_networks
        )
        change = getattr(module, "network_current_names", ()) != wanted
        (changing if change else apply)(module)

    return wrapped


def seconds() -> dict[str, float]:
    """Return the seconds since the last question."""
    found = {kind: SPENT[kind] for kind in ("shira", "lora")}
    SPENT.clear()
    return found


def forget() -> None:
    """Drop Lora's copies; the model must hold the base, as after a picture without networks."""
    for module in shared.sd_model.modules():
        assert getattr(module, "network_current_names", ()) == ()
        networks.network_reset_cached_weight(module)


def install(_demo: Any, app: Any) -> None:
    app.get("/bench/seconds")(seconds)
    app.get("/bench/forget")(forget)
    networks.load_networks = timed("lora", networks.load_networks)
    networks.network_apply_weights = timed_if_needed(networks.network_apply_weights)
    job.put_on = timed("shira", job.put_on)
    job.HOST.take_off = timed("shira", job.HOST.take_off)


script_callbacks.on_app_started(install)
