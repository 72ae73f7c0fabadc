"""AUTOMATIC1111: entries are written into the model in place, and back at the end of each job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modules import script_callbacks, sd_models, shared

from shira_core.errors import ShiraError

from .. import problems
from ..patcher import Patcher
from ..stack import Stack
from ..wrapping import wrap


class A1111:
    """One model is in use at a time; `_p` is the processing object of what it wears."""

    def __init__(self) -> None:
        self._patcher = Patcher()
        self._p: Any = None

    def install(self) -> None:
        script_callbacks.on_cfg_denoiser(self._step)
        wrap(sd_models, "load_model_weights", self._leaving)
        wrap(sd_models, "reload_model_weights", self._refining)

    def wear(self, p: Any, stack: Stack) -> None:
        self._p = p
        if stack:
            self._patcher.wear(shared.sd_model, stack)
        else:
            self._patcher.take_off()

    def take_off(self) -> None:
        self._p = None
        self._patcher.take_off()

    def _step(self, params: Any) -> None:
        """Before each evaluation of the model: switch what is on for a part of the run only."""
        try:
            self._patcher.at(params.denoiser.step / params.denoiser.total_steps)
        except Exception as error:  # the WebUI would only write it into its log
            self._patcher.take_off()
            problems.note(self._p, error)

    def _leaving(self, load: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap the loading of a file into a model, which would make our originals void."""

        def load_model_weights(model: Any, *args: Any, **given: Any) -> Any:
            self._patcher.leave(model)
            return load(model, *args, **given)

        return load_model_weights

    def _refining(self, reload: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap the exchange of models: the WebUI activates no networks for a refiner."""

        def reload_model_weights(*args: Any, **given: Any) -> Any:
            p, stack = self._p, self._patcher.stack
            loaded = reload(*args, **given)
            refiner = getattr(p, "refiner_checkpoint_info", None)
            if stack and refiner is not None and given.get("info") is refiner:
                try:
                    self.wear(p, stack)
                except ShiraError as error:
                    problems.note(p, error)
            return loaded

        return reload_model_weights


HOST = A1111()
