"""What changes a weight."""

from .base import WeightAdapterBase as WeightAdapterBase
