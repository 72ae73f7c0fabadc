"""The queue on disk: SQLite, safe with several threads and processes, and after a kill."""

from __future__ import annotations

import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from shira_core.errors import FileInvalid, WriteFailed

from ..engine import config as settings
from ..engine.errors import ConfigInvalid
from .job import Job, JobRefused, State

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    position INTEGER NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    toml TEXT NOT NULL,
    out TEXT NOT NULL,
    created REAL NOT NULL,
    started REAL,
    resumed REAL,
    ended REAL,
    message TEXT NOT NULL,
    device TEXT NOT NULL
)"""
COLUMNS = "id, name, state, toml, out, created, started, resumed, ended, message, device"
WAIT = 5.0  # seconds for another process that writes
TIMES: dict[str, str] = {
    "running": ", started = COALESCE(started, :now), resumed = :now, ended = NULL",
    **dict.fromkeys(("stopped", "done", "failed"), ", ended = :now"),
}


class Store:
    """All jobs, in the order of the queue. Every call opens the file anew, so it has no state.

    path: the database, made when it is not there; each job has a folder in `jobs` beside it.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path).absolute()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._connected() as database:
            database.execute("PRAGMA journal_mode = WAL")  # stays so; not in a transaction
        with self._open() as database:
            database.execute(TABLE)

    def add(self, name: str, toml: str) -> Job:
        """Put a job at the end of the queue.

        toml: settings; relative paths are relative to the current folder.
        Raises ConfigInvalid, one line with the first wrong setting, and JobRefused when another
        job that waits or runs writes the same file.
        """
        config = settings_of(toml)
        with self._open() as database:
            _refuse_taken(database, str(config.out))
            cursor = database.execute(
                "INSERT INTO jobs (position, name, state, toml, out, created, message, device) "
                "VALUES ((SELECT COALESCE(MAX(position), 0) + 1 FROM jobs), ?, 'queued', ?, ?, ?, "
                "'', ?)",
                (_line(name), _text(config), str(config.out), time.time(), config.device),
            )
            return self._get(database, int(cursor.lastrowid or 0))

    def all(self) -> list[Job]:
        """Return all jobs, first those that are first in the queue."""
        with self._open() as database:
            rows = database.execute(f"SELECT {COLUMNS} FROM jobs ORDER BY position, id")
            return [self._job(row) for row in rows]

    def get(self, id: int) -> Job:
        """Return a job; raises JobRefused when there is none of this number."""
        with self._open() as database:
            return self._get(database, id)

    def set_state(self, id: int, state: State, message: str = "") -> Job:
        """Set state and message, and the times that belong to them."""
        with self._open() as database:
            _set(database, self._get(database, id), state, message)
            return self._get(database, id)

    def change(self, id: int, states: Sequence[State], state: State, message: str = "") -> bool:
        """Do the same if the state is one of `states`, and tell whether it was."""
        with self._open() as database:
            job = self._get(database, id)
            if job.state in states:
                _set(database, job, state, message)
            return job.state in states

    def rename(self, id: int, name: str) -> Job:
        """Give a job another name; its files keep theirs."""
        with self._open() as database:
            database.execute("UPDATE jobs SET name = ? WHERE id = ?", (_line(name), id))
            return self._get(database, id)

    def duplicate(self, id: int) -> Job:
        """Put a copy at the end of the queue, which writes to a file of another name."""
        job = self.get(id)
        config = settings_of(job.toml)
        taken = {each.out for each in self.all()}
        copy = config.model_copy(update={"out": _free(config.out, taken)})
        return self.add(f"{job.name} (copy)", _text(copy))

    def delete(self, id: int) -> None:
        """Forget a job and its private files; what it trained stays.

        Raises JobRefused for one that has a process.
        """
        with self._open() as database:
            job = self._get(database, id)
            if job.active:
                raise JobRefused(f"{job.name} is {job.state}: stop it and wait, then delete it")
            database.execute("DELETE FROM jobs WHERE id = ?", (id,))
        shutil.rmtree(job.folder, ignore_errors=True)

    def move(self, id: int, by: int) -> None:
        """Move a queued job by so many places among those that wait; negative: to the front."""
        with self._open() as database:
            job = self._get(database, id)
            if job.state != "queued":
                raise JobRefused(f"{job.name} is {job.state}: only a queued job can be moved")
            rows = database.execute(
                "SELECT id, position FROM jobs WHERE state = 'queued' ORDER BY position, id"
            ).fetchall()
            order = [row[0] for row in rows]
            place = order.index(id)
            order.insert(min(max(0, place + by), len(order) - 1), order.pop(place))
            for (_, position), moved in zip(rows, order, strict=True):
                database.execute("UPDATE jobs SET position = ? WHERE id = ?", (position, moved))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection in a transaction of its own, undone when anything is raised."""
        with self._connected() as database:
            database.execute("BEGIN IMMEDIATE")
            yield database
            database.execute("COMMIT")  # what is not committed is undone

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection; its errors are ours."""
        try:
            with closing(sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)) as found:
                yield found
        except sqlite3.OperationalError as error:  # a full disk, rights, another that writes long
            raise WriteFailed(
                f"the queue {self.path} cannot be used: {error}: check free space and permissions"
            ) from error
        except sqlite3.DatabaseError as error:
            raise FileInvalid(
                f"the queue {self.path} is damaged: {error}: move it elsewhere and start again"
            ) from error

    def _get(self, database: sqlite3.Connection, id: int) -> Job:
        row = database.execute(f"SELECT {COLUMNS} FROM jobs WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise JobRefused(f"there is no job {id} any more: look at the list again")
        return self._job(row)

    def _job(self, row: tuple[Any, ...]) -> Job:
        values = dict(zip(COLUMNS.split(", "), row, strict=True))
        values |= {"out": Path(values["out"]), "folder": self._folder(values["id"])}
        return Job(**values)

    def _folder(self, id: int) -> Path:
        return self.path.parent / "jobs" / str(id)


def _refuse_taken(database: sqlite3.Connection, out: str) -> None:
    row = database.execute(
        "SELECT name FROM jobs WHERE out = ? AND state IN ('queued', 'running', 'stopping')", (out,)
    ).fetchone()
    if row:
        raise JobRefused(f"out: {out} is written by the job {row[0]}: choose another name")


def _set(database: sqlite3.Connection, job: Job, state: State, message: str) -> None:
    values = {"id": job.id, "state": state, "message": _line(message), "now": time.time()}
    times = TIMES.get(state, "")
    database.execute(
        f"UPDATE jobs SET state = :state, message = :message{times} WHERE id = :id", values
    )


def settings_of(toml: str) -> settings.Config:
    """Return the settings in a TOML text; raises ConfigInvalid."""
    try:
        values = tomllib.loads(toml)
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid(f"this is not valid TOML: {error}: correct it") from None
    return settings.load(None, values)


def _text(config: settings.Config) -> str:
    """Return the settings as TOML, `overwrite` with them: a job is a call and a run."""
    return settings.dump(config) + ("overwrite = true\n" if config.overwrite else "")


def _line(text: str) -> str:
    return " ".join(text.split())


def _free(out: Path, taken: set[Path]) -> Path:
    """Return a name like `out` that no file, run or job has: style-2.shira."""
    number = 2
    while True:
        path = out.with_stem(f"{out.stem}-{number}")
        if path not in taken and not path.exists() and not path.with_suffix(".run").exists():
            return path
        number += 1
