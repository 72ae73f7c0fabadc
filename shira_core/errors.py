"""Every error that SHiRA raises on purpose: what is wrong, where, and what to do about it.

The command line prints the message of a `ShiraError` as one line and exits with code 1.
"""


class ShiraError(Exception):
    """Base of all our errors; its message is one line for the person who has to act."""


class FileInvalid(ShiraError):
    """A file is truncated, hostile, of another format, or holds values that cannot be trusted."""


class FileExists(ShiraError):
    """The output is already there and the caller did not ask to overwrite it."""


class WriteFailed(ShiraError):
    """The output could not be written (no space, no permission); nothing was left behind."""


class ShapeMismatch(ShiraError):
    """A weight has another shape in the adapter than in the model."""


class WeightMissing(ShiraError):
    """The model has no weight of the name that the adapter changes."""


class ArchitectureMismatch(ShiraError):
    """The adapter was trained for another model architecture."""


class InvalidValue(ShiraError, ValueError):
    """An argument (mask name, density, alpha, dtype...) is not usable."""


class OutOfMemory(ShiraError):
    """The device has too little free memory; nothing was changed."""


class MissingDependency(ShiraError):
    """An optional package is needed for this function."""


class HubError(ShiraError):
    """A model hub refused a request, or could not be reached; local files are as they were."""
