"""What all tabs work with: the folders, the queue, the settings on the page."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from shira_core.errors import ShiraError, WriteFailed

from .. import models
from ..engine.config import DEFAULT_DENSITY, PATHS, Config, load
from ..engine.data import STEP, buckets
from ..engine.errors import BaseInvalid
from ..engine.outline import Outline, outline
from ..jobs import Job, Runner, Store
from ..pictures import Folder
from ..roots import Roots
from . import fields, words
from .aside import Aside
from .kept import Kept

STATE, ADAPTERS, DATASETS, SHARED = "trainer", "adapters", "datasets", "shared"
KEPT_FOLDERS = 4
USUAL = 512, 8  # resolution and pixels per latent, while no base is chosen


@dataclass
class Folders:
    """The picture folders that were opened last; one that goes is closed."""

    _open: OrderedDict[Path, Folder] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def has(self, path: Path) -> bool:
        """Tell whether a folder is open, so that nothing of it takes long."""
        return path in self._open

    def open(self, path: Path, roots: Roots) -> Folder:
        """Return a folder, the open one if it is; raises DataInvalid."""
        with self._lock:
            if path not in self._open:
                self._open[path] = Folder(path, allowed=roots.resolve)
            self._open.move_to_end(path)
            while len(self._open) > KEPT_FOLDERS:
                self._open.popitem(last=False)[1].close()
            return self._open[path]


@dataclass(frozen=True)
class Desk:
    """home: the first of the roots, where new files go. timed: seconds per step of settings."""

    roots: Roots
    store: Store
    runner: Runner
    draft: Kept
    timed: Kept
    folders: Folders = field(default_factory=Folders)
    aside: Aside = field(default_factory=Aside)
    timer: Aside = field(default_factory=Aside)

    @property
    def home(self) -> Path:
        return self.roots.folders[0]

    def place(self, name: str, text: str | Path) -> Path:
        """Return the path of a setting; a mere name of `out` lies among the adapters."""
        if name == "out" and Path(text).name == str(text):
            text = self.home / ADAPTERS / str(text)
            if text.suffix.lower() not in (".shira", ".safetensors"):
                text = text.with_name(f"{text.name}.shira")
        return self.roots.resolve(text)

    def kept(self) -> dict[str, Any]:
        """Return the values that the page's settings had last, by name."""
        started = {"density": DEFAULT_DENSITY}
        return {**fields.form_values(started), **fields.kept_values(self.draft.read())}

    def rule(self, base: str, values: Mapping[str, Any]) -> buckets.Rule:
        """Return which sizes a run with these settings trains; raises ConfigInvalid.

        values: of the components that it depends on, by name.
        """
        stand_ins = {"base": str(self.home), "images": str(self.home), "out": "adapter"}
        config = self.config({**fields.form_values({}), **stand_ins, **values})
        try:
            path = self.place("base", base)
            found = _outline(path, path.stat().st_mtime_ns)
            resolution, factor = found.resolution, found.factor
        except (ShiraError, OSError):
            resolution, factor = USUAL
        return buckets.rule(config, config.resolution or resolution, STEP * factor)

    def weights(self, base: Path, which: str = "all") -> tuple[models.Weight, ...]:
        """Return what can be trained of a base, at once after the first time; raises BaseInvalid.

        which: "all" or "attention".
        """
        try:
            stamp = base.stat().st_mtime_ns
        except OSError:
            raise BaseInvalid(f"base: {base} does not exist: choose another") from None
        return _weights(self.aside, base, stamp, which)

    def close(self) -> None:
        """End what was started; trainings go on."""
        self.runner.close()
        self.aside.close()
        self.timer.close()

    def config(self, values: Mapping[str, Any]) -> Config:
        """Return the settings of the page's components; raises our errors, one line each."""
        given = fields.settings(values)
        for name in PATHS:
            if name in given:
                given[name] = self.place(name, given[name])
        return load(None, given)

    def problem(self, values: Mapping[str, Any]) -> str:
        """Say what is wrong with the settings, "" when they can be trained."""
        try:
            self.config(values)
        except ShiraError as error:
            return words.problem(error)
        return ""

    def current(self, wanted: int | None) -> Job | None:
        """Return the job that is looked at: the wanted one, else what trains, else the last."""
        jobs = self.store.all()
        by_id = {job.id: job for job in jobs}
        if wanted in by_id:
            return by_id[wanted]
        return max(jobs, key=lambda job: (job.active, job.started or 0), default=None)


@lru_cache(maxsize=16)
def _outline(base: Path, stamp: int) -> Outline:
    return outline(base)


@lru_cache(maxsize=16)
def _weights(aside: Aside, base: Path, stamp: int, which: str) -> tuple[models.Weight, ...]:
    return aside.call(models.weights, base, which)


def open_desk(folders: Sequence[Path]) -> Desk:
    """Open the app's folders, the first one for its own files, and run the queue in it.

    Raises WriteFailed, FileInvalid.
    """
    for name in (STATE, ADAPTERS, DATASETS):
        _make(folders[0] / name)
    roots = Roots(folders)
    state = roots.folders[0] / STATE
    store = Store(state / "jobs.sqlite")
    runner = Runner(store)
    runner.start()
    return Desk(roots, store, runner, Kept(state / "draft.json"), Kept(state / "timed.json"))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteFailed(
            f"cannot make {folder}: {error.strerror}: give another folder with --root"
        ) from None
