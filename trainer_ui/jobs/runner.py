"""Runs the queue: one job per device, each in a process that outlives this one."""

from __future__ import annotations

from .job import Job
from .store import Store


class Runner:
    """Starts, stops and watches the processes of a store's jobs, from a thread of its own."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def start(self) -> None:
        """Begin to run the queue; returns at once."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop watching; processes go on."""
        raise NotImplementedError

    def stop(self, id: int) -> Job:
        """Ask a job to stop after its step; asked again, it stops at once."""
        raise NotImplementedError

    def resume(self, id: int) -> Job:
        """Queue a job again that was stopped or failed; it goes on from its last checkpoint."""
        raise NotImplementedError

    def delete(self, id: int) -> None:
        """Forget a job that has no process; what it trained stays."""
        raise NotImplementedError
