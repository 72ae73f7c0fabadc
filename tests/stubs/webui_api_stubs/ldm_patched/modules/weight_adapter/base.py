"""reForge: patches that know how to add themselves."""

from __future__ import annotations

from typing import Any


class WeightAdapterBase:
    name: str
    loaded_keys: set[str]
    weights: Any

    def calculate_weight(
        self,
        weight: Any,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Any,
        intermediate_dtype: Any = None,
        original_weight: Any = None,
    ) -> Any:
        raise NotImplementedError
