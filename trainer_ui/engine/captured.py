"""Forward and backward passes that are recorded and replayed, so that Python's time is not theirs.

A pass starts thousands of small operations, which Python does slower than a fast GPU. What a pass
does depends on the shapes of its batch alone, so it is recorded once for each shape. Noise and
timesteps are drawn outside, from the batch's number, as in any other pass.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from .encoding import Say
from .graphs import Recorder, Work
from .loss import Inputs, Losses
from .tuning import Tuning


@dataclass(frozen=True)
class _Recorded:
    """A recorded pass: where its inputs have to be, where its loss will be, and its replay."""

    inputs: Inputs
    loss: Tensor
    replay: Work


class Passes:
    """The forward and backward passes of a run, recorded where there is a recorder.

    The first pass of each shape is an ordinary one, in which libraries load what they need.
    """

    def __init__(
        self, losses: Losses, tuning: Tuning, recorder: Recorder | None, warn: Say
    ) -> None:
        self._losses, self._tuning = losses, tuning
        self._recorder, self._warn = recorder, warn
        self._scale = torch.ones((), device=losses.opened.device)
        self._met: set[tuple[torch.Size, ...]] = set()
        self._recorded: dict[tuple[torch.Size, ...], _Recorded] = {}
        self._write: Work | None = None

    def __call__(self, number: int, scale: float) -> Tensor:
        """Add the gradient of a batch's part of the mean loss, times `scale`; return that part."""
        inputs = self._losses.inputs(number)
        self._scale.fill_(scale)
        recorded = self._of(inputs)
        if recorded is None:
            return self._plain(inputs)
        for place, tensor in zip(recorded.inputs.tensors, inputs.tensors, strict=True):
            place.copy_(tensor, non_blocking=True)
        recorded.replay()
        return recorded.loss.clone()

    def update(self) -> None:
        """Make all weights hold what the vectors say."""
        if self._recorded and self._write is None:
            self._write = self._record(self._tuning.update)
        (self._write or self._tuning.update)()

    def release(self) -> None:
        """Give back the memory of recorded passes, for whatever else runs; they come again."""
        if self._recorded and self._recorder:
            self._recorded.clear()
            self._write = None
            self._recorder.free()

    def _of(self, inputs: Inputs) -> _Recorded | None:
        """Return the recorded pass for such inputs, None where an ordinary one has to be done."""
        shape = inputs.shape
        if shape not in self._recorded and shape in self._met and self._recorder:
            place = self._losses.opened.device
            own = inputs.map(lambda tensor: tensor.to(place, copy=True))
            loss = torch.zeros((), device=place)
            self._tuning.update()  # else it would be recorded, too
            replay = self._record(lambda: loss.copy_(self._pass(own)))
            if replay:
                self._recorded[shape] = _Recorded(own, loss, replay)
        return self._recorded.get(shape)

    def _plain(self, inputs: Inputs) -> Tensor:
        self.release()
        self._met.add(inputs.shape)
        with self._recorder.ready() if self._recorder else nullcontext():
            return self._pass(inputs)

    def _pass(self, inputs: Inputs) -> Tensor:
        loss = self._losses.of(inputs) / self._losses.config.accumulate
        (loss * self._scale).backward()
        return loss.detach()

    def _record(self, work: Work) -> Work | None:
        """Return a replay; where it fails, warn, record nothing any more, and return None."""
        if self._recorder is None:
            return None
        try:
            return self._recorder.record(work)
        except RuntimeError as error:  # the first one says more than what followed
            why = str(error.__context__ or error).splitlines()[0]
        self._warn(f"steps are not captured ({why}): they are slower")
        self._recorded.clear()
        self._write, failed, self._recorder = None, self._recorder, None
        failed.free()
        return None
