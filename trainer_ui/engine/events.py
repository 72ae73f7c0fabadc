"""What a run tells other programs: one JSON object per line in `events.jsonl` (docs/events.md).

The classes below are the schema. A reader may follow the file while the run goes on.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator

NAME = "events.jsonl"


class Event(BaseModel):
    """What all events have. time: seconds since 1970."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    event: str
    time: float = Field(default_factory=lambda: round(time.time(), 3))


class Measured(Event):
    """A batch that shows which entries to train is done. eta: seconds that are left of them."""

    event: Literal["measured"] = "measured"
    batch: int
    batches: int
    eta: float


class Start(Event):
    """The steps begin, or go on after `step` of them."""

    event: Literal["start"] = "start"
    step: int
    steps: int
    pictures: int
    resolution: int
    entries: int
    base: str
    architecture: str
    prediction: str
    device: str
    processes: int


class Step(Event):
    """A step is done. lr: the UNet's rate. norm: of the gradient. eta: seconds that are left.

    loss and norm are null where float16 overflowed and the step was left out. memory: the most
    bytes of the GPU that were taken until now, null without one.
    """

    event: Literal["step"] = "step"
    step: int
    loss: float | None
    norm: float | None
    lr: float
    eta: float
    memory: int | None = None

    @field_validator("loss", "norm")
    @classmethod
    def _number(cls, value: float | None) -> float | None:
        """JSON has no nan and no infinity."""
        return value if value is not None and math.isfinite(value) else None


class Validation(Event):
    """The loss of the pictures held out, after `step` steps."""

    event: Literal["validation"] = "validation"
    step: int
    loss: float


class Sample(Event):
    """Pictures were drawn. path: of a PNG."""

    event: Literal["sample"] = "sample"
    step: int
    path: str


class Checkpoint(Event):
    """The state was written: a resumed run goes on from here."""

    event: Literal["checkpoint"] = "checkpoint"
    step: int


class Saved(Event):
    """An adapter was kept on the way. path: of a `.shira` file."""

    event: Literal["saved"] = "saved"
    step: int
    path: str


class Warned(Event):
    """Something that a person may want to change."""

    event: Literal["warning"] = "warning"
    message: str


class Stopped(Event):
    """The run was asked to stop. step: null where it stopped in the middle of one."""

    event: Literal["stopped"] = "stopped"
    step: int | None = None


class Done(Event):
    """The adapter is written. seconds: of training, over all resumed parts."""

    event: Literal["done"] = "done"
    path: str
    steps: int
    seconds: float


class Failed(Event):
    """The run ended with an error, in one line."""

    event: Literal["error"] = "error"
    message: str


AnyEvent = Annotated[
    Measured
    | Start
    | Step
    | Validation
    | Sample
    | Checkpoint
    | Saved
    | Warned
    | Stopped
    | Done
    | Failed,
    Field(discriminator="event"),
]
_READER: TypeAdapter[AnyEvent] = TypeAdapter(AnyEvent)


def parse(line: str) -> Event:
    """Return the event of a line; raises pydantic's ValidationError for one that is none."""
    return _READER.validate_json(line)


class Events:
    """Appends events to a JSON-lines file; None: of a process that does not tell."""

    def __init__(self, path: Path | None, append: bool) -> None:
        path = path or Path(os.devnull)
        torn = append and path.is_file() and not path.read_bytes().endswith(b"\n")
        self._file = path.open("a" if append else "w", encoding="utf-8")
        if torn:  # the process before was killed while it wrote
            self._file.write("\n")

    def emit(self, event: Event) -> None:
        """Write one event at once."""
        self._file.write(event.model_dump_json() + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()
