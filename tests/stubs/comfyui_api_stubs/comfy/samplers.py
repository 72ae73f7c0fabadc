"""A sampling run with its wrappers: each step is an Euler step of the model's answer."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch

import comfy.model_management
from comfy.patcher_extension import WrapperExecutor, WrappersMP


class CFGGuider:
    def __init__(self, model_patcher: Any) -> None:
        self.model_patcher = model_patcher
        self.conds: Any = None

    def _call(self, kind: str, original: Any, *args: Any) -> Any:
        by_key = self.model_patcher.wrappers.get(kind, {})
        wrappers = [each for found in by_key.values() for each in found]
        class_obj = None if kind == WrappersMP.PREPARE_SAMPLING else self
        return WrapperExecutor(original, class_obj, wrappers, 0).execute(*args)

    def sample(self, noise: torch.Tensor, latent_image: Any, sampler: Any, sigmas: Any) -> Any:
        return self._call(WrappersMP.OUTER_SAMPLE, self.outer_sample, noise, sigmas)

    def outer_sample(self, noise: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
        patcher, prepare = self.model_patcher, WrappersMP.PREPARE_SAMPLING
        self._call(prepare, _prepare_sampling, patcher, noise.shape, self.conds)
        for now, then in pairwise(sigmas):
            comfy.model_management.throw_exception_if_processing_interrupted()
            predict = (WrappersMP.PREDICT_NOISE, self.predict_noise)
            step = self._call(*predict, noise, now.reshape(1), {}, 0)
            noise = noise + (then - now) * step
        return noise

    def predict_noise(
        self, x: Any, timestep: Any, model_options: Any = None, seed: Any = None
    ) -> Any:
        return self.model_patcher.model.apply_model(x, timestep)


def _prepare_sampling(
    model: Any, noise_shape: Any, conds: Any, model_options: Any = None
) -> tuple[Any, Any, list[Any]]:
    comfy.model_management.load_models_gpu([model])
    return model.model, conds, []
