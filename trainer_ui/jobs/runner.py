"""Runs the queue: one job per device, each in a process that outlives this one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache

import psutil

from shira_core.atomic import atomic_write
from shira_core.errors import FileExists, ShiraError

from ..engine.lock import locked
from . import process
from .job import Job, JobRefused, State
from .outcome import outcome, resumable
from .progress import progress
from .store import Store

INTERVAL = 0.5  # seconds between two looks
ASKED = "it stops after its step; stop once more to stop at once"
BEFORE_STOP: dict[State, State] = {
    "queued": "stopped",
    "running": "stopping",
    "stopping": "stopping",
}


class Runner:
    """Starts, stops and watches the processes of a store's jobs, from a thread of its own.

    What is asked of it is written into the store, and done by the thread: so it does not matter
    when the program ends, nor in which of two programs it was asked. Of several runners of one
    store one works; when it ends, however it ends, another takes over.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._processes: dict[int, psutil.Process] = {}
        self._held, self._starting = set[str](), threading.Lock()
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="shira jobs", daemon=True)

    def start(self) -> None:
        """Begin to run the queue; returns at once."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; processes go on."""
        self._closing.set()
        self._wake.set()
        self._thread.join()

    def stop(self, id: int) -> Job:
        """Ask a job to stop after its step; asked again, it stops at once. Raises JobRefused."""
        for before, after in BEFORE_STOP.items():
            if self.store.change(id, (before,), after):
                self._wake.set()
                return self.store.get(id)
        job = self.store.get(id)
        raise JobRefused(f"{job.name} is {job.state} already: there is nothing to stop")

    def resume(self, id: int) -> Job:
        """Queue a job again that was stopped or failed; raises JobRefused for others.

        It goes on from its last checkpoint, and starts anew when it has none.
        """
        if not self.store.change(id, ("stopped", "failed"), "queued"):
            job = self.store.get(id)
            raise JobRefused(f"{job.name} is {job.state}: only what was stopped can be resumed")
        self._wake.set()
        return self.store.get(id)

    def delete(self, id: int) -> None:
        """Forget a job that has no process; what it trained stays. Raises JobRefused."""
        self.store.delete(id)

    @contextmanager
    def held(self, device: str) -> Iterator[None]:
        """Keep a device from the jobs that wait; raises JobRefused when it is taken."""
        wanted = lane(device)
        with self._starting:
            for job in self.store.all():
                if job.active and lane(job.device) == wanted:
                    raise JobRefused(f"{job.name} is training on this device: wait for its end")
            if wanted in self._held:
                raise JobRefused("steps are being timed on this device: wait for their end")
            self._held.add(wanted)
        try:
            yield
        finally:
            self._held.discard(wanted)
            self._wake.set()

    def _run(self) -> None:
        with ExitStack() as stack:
            mine = False
            while not self._closing.is_set():
                mine = mine or self._claim(stack)
                if mine:
                    self._look()
                self._wake.wait(INTERVAL)
                self._wake.clear()

    def _claim(self, stack: ExitStack) -> bool:
        """Become the runner that works, unless there is one."""
        try:
            stack.enter_context(locked(self.store.path.parent))
        except FileExists:
            return False
        return True

    def _look(self) -> None:
        try:
            for job in self.store.all():
                if job.active:
                    self._watch(job)
            with self._starting:
                self._start_next()
        except Exception:  # a full disk, say, must not end the thread: it looks again
            logging.getLogger(__name__).exception("the queue could not be looked at")

    def _watch(self, job: Job) -> None:
        """Note that a process has ended; hand on that it should stop."""
        running = self._processes.get(job.id) or process.find(job.config)
        if running is None or process.over(running):
            self._processes.pop(job.id, None)
            self.store.set_state(job.id, *outcome(job))
            return
        self._processes[job.id] = running
        if job.state == "stopping" and not job.message:
            process.stop(running, job.run_folder, progress(job).seconds_left is not None)
            self.store.set_state(job.id, "stopping", ASKED)

    def _start_next(self) -> None:
        jobs = self.store.all()
        busy = self._held | {lane(job.device) for job in jobs if job.active}
        for job in jobs:
            if job.state == "queued" and lane(job.device) not in busy:
                busy.add(lane(job.device))
                self._launch(job)

    def _launch(self, job: Job) -> None:
        """Start a job's process, unless it was stopped or deleted meanwhile."""
        flags = ["--resume"] if resumable(job) else []
        try:
            if not self.store.change(job.id, ("queued",), "running"):
                return
            job.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(job.config, overwrite=True) as target:
                target.write_text(job.toml, encoding="utf-8")
            (job.run_folder / process.NAME).unlink(missing_ok=True)  # of a process that was killed
            self._processes[job.id] = process.start(job.config, job.log, flags)
        except JobRefused:
            return
        except (OSError, ShiraError) as error:
            self.store.set_state(job.id, "failed", f"{error}: check free space and permissions")


def lane(device: str) -> str:
    """Return the device that a setting means: a lane is for one job at a time."""
    if device == "auto":
        device = "cuda" if _cuda() else "cpu"
    return "cuda:0" if device == "cuda" else device


@cache
def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()
