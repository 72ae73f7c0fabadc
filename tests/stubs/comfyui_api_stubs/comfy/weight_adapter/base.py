"""The base of all weight adapters."""

from __future__ import annotations

from typing import Any


class WeightAdapterBase:
    name: str
    loaded_keys: set[str]
    weights: Any

    def calculate_weight(
        self,
        weight: Any,
        key: Any,
        strength: Any,
        strength_model: Any,
        offset: Any,
        function: Any,
        intermediate_dtype: Any = None,
        original_weight: Any = None,
    ) -> Any:
        raise NotImplementedError
