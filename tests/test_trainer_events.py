"""The events of real runs against their schema, and the schema against its documentation."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import get_args

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from pydantic import ValidationError

from shira_core.errors import ShiraError
from trainer_ui.engine import events
from trainer_ui.engine.config import load
from trainer_ui.engine.loop import train

Settings = dict[str, object]
KINDS = get_args(get_args(events.AnyEvent)[0])
DOCS = Path(__file__).resolve().parent.parent / "docs" / "events.md"


def read(settings: Settings) -> list[events.Event]:
    path = Path(str(settings["out"])).with_suffix(".run") / "events.jsonl"
    return [events.parse(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_whole_run_keeps_to_the_schema(settings: Settings) -> None:
    """Stopped, resumed and finished, with everything that is told on the way."""

    def stop(step: int, unet: torch.nn.Module) -> None:
        if step == 2:
            signal.raise_signal(signal.SIGINT)

    more = {"steps": 4, "validation": 0.34, "validation_every": 1, "save_every": 1}
    assert train(load(None, {**settings, **more, "sample_every": 1}), stop) is None
    assert train(load(None, {**settings, **more, "sample_every": 1, "resume": True}))
    told = read(settings)
    kinds = [event.event for event in told]
    ways = {"start", "step", "validation", "sample", "checkpoint", "saved", "stopped", "done"}
    assert ways <= set(kinds)
    assert kinds.count("start") == 2
    assert [e.step for e in told if isinstance(e, events.Step)] == [1, 2, 3, 4]
    assert [e.step for e in told if isinstance(e, events.Start)] == [0, 2]
    assert [e.time for e in told] == sorted(e.time for e in told)
    for event in told:
        if isinstance(event, (events.Sample, events.Saved, events.Done)):
            assert Path(event.path).is_file()


def test_what_is_measured_first_is_told(settings: Settings) -> None:
    """For the UNet and each text encoder; a run that goes on has measured already."""

    def stop(step: int, unet: torch.nn.Module) -> None:
        if step == 1:
            signal.raise_signal(signal.SIGINT)

    more = {**settings, "steps": 2, "mask": "moved", "calibration": 3, "text_lr": 1e-3}
    assert train(load(None, more), stop) is None
    first = read(settings)
    measured = [e for e in first if isinstance(e, events.Measured)]
    assert [(e.batch, e.batches) for e in measured] == [(1, 3), (2, 3), (3, 3)] * 2
    assert [e.eta for e in measured][2::3] == [0, 0]
    assert isinstance(first[len(measured)], events.Start)
    assert train(load(None, {**more, "resume": True}))
    assert sum(isinstance(e, events.Measured) for e in read(settings)) == len(measured)


def test_an_error_is_the_last_event(settings: Settings) -> None:
    with pytest.raises(ShiraError) as caught:
        train(load(None, {**settings, "images": str(Path(str(settings["out"])).parent)}))
    last = read(settings)[-1]
    assert isinstance(last, events.Failed)
    assert last.message == str(caught.value)


def test_no_number_is_null() -> None:
    step = events.Step(step=1, loss=float("nan"), norm=float("inf"), lr=1.0, eta=0.0)
    again = events.parse(step.model_dump_json())
    assert isinstance(again, events.Step)
    assert (again.loss, again.norm) == (None, None)


@pytest.mark.parametrize(
    "line", ['{"event": "other", "time": 1}', '{"event": "checkpoint"}', "{", '{"event": "st']
)
def test_what_is_no_event_is_refused(line: str) -> None:
    with pytest.raises(ValidationError):
        events.parse(line)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_event_and_field_is_documented(kind: type[events.Event]) -> None:
    name = kind.model_fields["event"].default
    row = next(line for line in DOCS.read_text().splitlines() if line.startswith(f"| `{name}` |"))
    for field in set(kind.model_fields) - {"event", "time"}:
        assert f"`{field}`" in row, field
