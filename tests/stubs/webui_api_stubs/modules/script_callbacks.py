"""What the WebUI tells of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

registered: dict[str, list[Callable[..., Any]]] = defaultdict(list)


class CFGDenoiserParams:
    def __init__(
        self,
        x: Any,
        image_cond: Any,
        sigma: Any,
        sampling_step: int,
        total_sampling_steps: int,
        text_cond: Any,
        text_uncond: Any,
        denoiser: Any = None,
    ) -> None:
        self.x, self.sigma, self.denoiser = x, sigma, denoiser
        self.sampling_step, self.total_sampling_steps = sampling_step, total_sampling_steps


def on_cfg_denoiser(callback: Callable[..., Any], *, name: str | None = None) -> None:
    registered["cfg_denoiser"].append(callback)


def on_before_ui(callback: Callable[..., Any], *, name: str | None = None) -> None:
    registered["before_ui"].append(callback)


def on_app_started(callback: Callable[..., Any], *, name: str | None = None) -> None:
    registered["app_started"].append(callback)


def on_infotext_pasted(callback: Callable[..., Any], *, name: str | None = None) -> None:
    registered["infotext_pasted"].append(callback)


def on_ui_settings(callback: Callable[..., Any], *, name: str | None = None) -> None:
    registered["ui_settings"].append(callback)


def on_ui_tabs(callback: Callable[..., Any], *, name: str | None = None) -> None:
    registered["ui_tabs"].append(callback)


def cfg_denoiser_callback(params: CFGDenoiserParams) -> None:
    for callback in registered["cfg_denoiser"]:
        callback(params)
