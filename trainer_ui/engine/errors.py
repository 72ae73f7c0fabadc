"""Errors that only training can raise."""

from shira_core.errors import ShiraError

ONLY = "this trainer trains SD1.5 and SDXL models: give one of those as base"


class ConfigInvalid(ShiraError):
    """A setting of the run is missing, unknown or out of range."""


class DataInvalid(ShiraError):
    """The picture folder cannot be trained on."""


class BaseInvalid(ShiraError):
    """The base cannot be opened, or is of an architecture that cannot be trained."""


class TrainingFailed(ShiraError):
    """The run broke: out of memory, or the loss is no longer a number."""
