"""The queue: real training processes, and every way in which they or the app can end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("psutil")
pytest.importorskip("diffusers")
from trainer_runs import ROOT, start

import shira_core as shira
from trainer_ui.engine.config import load
from trainer_ui.engine.errors import ConfigInvalid
from trainer_ui.engine.loop import train
from trainer_ui.jobs import Job, JobRefused, Runner, Store, process, progress
from trainer_ui.jobs.runner import lane

STEPS, EVERY = 24, 4
PATIENCE = 120.0  # seconds until a test gives up
SUPERVISOR = """
import sys, time
from pathlib import Path
from trainer_ui.jobs import Runner, Store
Runner(Store(Path(sys.argv[1]))).start()
time.sleep(600)
"""
WRITER = """
import sys
from pathlib import Path
from trainer_ui.jobs import Store
store = Store(Path(sys.argv[1]))
for number in range(10**9):
    text = sys.argv[2].replace("style.shira", f"style-{number}.shira")
    print(store.add("a job", text).id, flush=True)
"""


def toml(out: Path, **more: object) -> str:
    values: dict[str, object] = {
        "base": str(ROOT / "assets" / "base"),
        "images": str(ROOT / "assets" / "samples" / "contrast"),
        "out": str(out),
        "trigger": "contrast style",
        "title": "the same in every file",
        "steps": STEPS,
        "checkpoint_every": EVERY,
        "batch_size": 1,
        "accumulate": 2,
        "resolution": 64,
        "threads": 1,
        "lr": 1e-3,
        "device": "cpu",
        "sample_count": 0,
        **more,
    }
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def wait(there: Callable[[], object]) -> None:
    """Return when it is so."""
    end = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.03)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "app" / "jobs.sqlite")


@pytest.fixture
def runners(store: Store) -> Iterator[Callable[[], Runner]]:
    """Starts runners; all are closed, and no training goes on, in the end."""
    started: list[Runner] = []

    def begin() -> Runner:
        started.append(Runner(store))
        started[-1].start()
        return started[-1]

    yield begin
    for runner in started:
        runner.close()
    for job in store.all():
        if found := process.find(job.config):
            found.kill()


def kill(job: Job) -> None:
    found = process.find(job.config)
    assert found is not None
    found.kill()


def test_nothing_is_lost_when_app_or_training_are_killed(
    store: Store, runners: Callable[[], Runner], tmp_path: Path
) -> None:
    """Each alone, and both; what is trained in the end is, byte for byte, one run without them."""
    first = store.add("first", toml(tmp_path / "first.shira"))
    second = store.add("second", toml(tmp_path / "second.shira"))

    def state(job: Job) -> str:
        return store.get(job.id).state

    def steps(job: Job) -> int:
        return progress(store.get(job.id)).step

    # the app is killed: its training goes on and is found again by the next one, and stopped
    app = start([sys.executable, "-c", SUPERVISOR, str(store.path)])
    wait(lambda: steps(first) >= 2)
    app.kill()
    app.communicate()
    before = process.find(first.config)
    assert before is not None
    assert state(first) == "running"
    assert state(second) == "queued"
    runner = runners()
    runner.stop(first.id)
    wait(lambda: state(first) == "stopped")
    assert process.over(before)  # a zombie, where nobody takes orphans in
    stopped = progress(store.get(first.id))
    assert 0 < stopped.step < STEPS
    assert stopped.checkpoint == stopped.step
    adapter = shira.load(stopped.checkpoints[-1].path)
    assert adapter.header.triggers == ("contrast style",)

    # the training is killed
    wait(lambda: steps(second) >= EVERY + 1)
    assert store.get(second.id).started >= store.get(first.id).ended
    kill(second)
    wait(lambda: state(second) == "stopped")
    assert "resume" in store.get(second.id).message
    saved = progress(store.get(second.id)).checkpoint

    # it goes on from its checkpoint; both are killed, the app first
    runner.resume(second.id)
    wait(lambda: state(second) == "running" and store.get(second.id).resumed > time.time() - 60)
    wait(lambda: steps(second) > EVERY * 2)
    assert json.loads(_starts(second)[-1])["step"] == saved
    runner.close()
    kill(second)
    assert state(second) == "running"
    runner = runners()
    wait(lambda: state(second) == "stopped")
    runner.resume(second.id)
    wait(lambda: state(second) == "done")
    assert not (second.run_folder / "checkpoint.safetensors").exists()

    alone = tmp_path / "alone.toml"
    alone.write_text(toml(tmp_path / "alone.shira"))
    assert train(load(alone, {})) is not None
    assert second.out.read_bytes() == (tmp_path / "alone.shira").read_bytes()
    told = progress(store.get(second.id))
    assert [step for step, _ in told.losses] == list(range(1, STEPS + 1))
    assert told.step == told.steps == STEPS
    assert told.checkpoints[-1].path == second.out


def test_a_job_can_be_stopped_before_its_first_step(
    store: Store, runners: Callable[[], Runner], tmp_path: Path
) -> None:
    runner = runners()
    job = store.add("a job", toml(tmp_path / "style.shira"))
    wait(lambda: process.find(job.config))
    runner.stop(job.id)
    wait(lambda: store.get(job.id).state == "stopped")
    assert process.find(job.config) is None
    assert "starts anew" in store.get(job.id).message
    assert not job.out.exists()
    runner.delete(job.id)
    assert not job.folder.exists()


def test_where_there_are_no_signals_a_file_asks_to_stop(
    store: Store,
    runners: Callable[[], Runner],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "SIGNALS", False)
    runner = runners()
    job = store.add("a job", toml(tmp_path / "style.shira", steps=500))
    wait(lambda: progress(store.get(job.id)).step >= 2)
    runner.stop(job.id)
    wait(lambda: store.get(job.id).state == "stopped")
    told = progress(store.get(job.id))
    assert told.checkpoint == told.step < 500
    assert shira.load(told.checkpoints[-1].path).entries
    assert not (job.run_folder / "stop").exists()


def _starts(job: Job) -> list[str]:
    lines = (job.run_folder / "events.jsonl").read_text().splitlines()
    return [line for line in lines if '"event":"start"' in line]


ENDS = {
    "done": (['{"event":"done","time":NOW,"path":"a.shira","steps":4,"seconds":1.0}'], "", "done"),
    "error": (['{"event":"error","time":NOW,"message":"no pictures"}'], "", "failed"),
    "stopped": (['{"event":"stopped","time":NOW,"step":3}'], "", "stopped"),
    "killed": (['{"event":"checkpoint","time":NOW,"step":3}'], "training\n", "stopped"),
    "killed while it wrote": (['{"event":"done","time":NO'], "", "stopped"),
    "an old end": (
        ['{"event":"done","time":1.0,"path":"a","steps":4,"seconds":1}'],
        "",
        "stopped",
    ),
    "refused": ([], "opening\nshira train: no pictures\n", "failed"),
    "crashed": ([], "Traceback (most recent call last):\n  x\nOSError: no pictures\n", "failed"),
    "killed at once": ([], "", "stopped"),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_process_that_is_gone_is_judged_by_what_it_left(
    store: Store, runners: Callable[[], Runner], tmp_path: Path, name: str
) -> None:
    """As after a restart: the store says that it runs, and there is no process."""
    lines, log, wanted = ENDS[name]
    job = store.add("a job", toml(tmp_path / "style.shira"))
    store.set_state(job.id, "running")
    job.run_folder.mkdir()
    job.folder.mkdir(parents=True)
    text = "\n".join(lines).replace("NOW", str(time.time()))
    (job.run_folder / "events.jsonl").write_text(text)
    job.log.write_text(log)
    runners()
    wait(lambda: not store.get(job.id).active)
    found = store.get(job.id)
    assert found.state == wanted
    assert found.ended is not None
    if wanted == "failed":
        assert "no pictures" in found.message
    if name.startswith("killed"):
        assert "starts anew" in found.message


def test_one_runner_works_and_another_takes_over(
    store: Store, runners: Callable[[], Runner], tmp_path: Path
) -> None:
    first = runners()
    job = store.add("a job", toml(tmp_path / "style.shira"))
    store.set_state(job.id, "running")
    wait(lambda: not store.get(job.id).active)
    runners()
    first.close()
    store.set_state(job.id, "running")
    wait(lambda: not store.get(job.id).active)


def test_what_cannot_be_asked_is_refused_in_one_line(store: Store, tmp_path: Path) -> None:
    runner = Runner(store)
    job = store.add("a\njob", toml(tmp_path / "style.shira"))
    assert job.name == "a job"
    store.set_state(job.id, "running")
    refused: list[Callable[[], object]] = [
        lambda: runner.delete(job.id),
        lambda: runner.resume(job.id),
        lambda: store.move(job.id, 1),
        lambda: store.get(99),
        lambda: runner.stop(99),
    ]
    for ask in refused:
        with pytest.raises(JobRefused) as error:
            ask()
        assert "\n" not in str(error.value)
    assert runner.stop(job.id).state == "stopping"
    store.set_state(job.id, "done")
    with pytest.raises(JobRefused, match="done"):
        runner.stop(job.id)
    runner.delete(job.id)
    assert store.all() == []


@pytest.mark.parametrize("text", ["steps = ", "steps = 5", 'stepz = 5\nbase = "a"'])
def test_wrong_settings_are_refused_when_they_are_added(store: Store, text: str) -> None:
    with pytest.raises(ConfigInvalid):
        store.add("a job", text)
    assert store.all() == []


def test_two_jobs_never_write_one_file(store: Store, tmp_path: Path) -> None:
    """Start, clicked twice; when the first one has ended, the engine refuses what is there."""
    first = store.add("first", toml(tmp_path / "style.shira"))
    for state in ("queued", "running", "stopping"):
        store.set_state(first.id, state)
        with pytest.raises(JobRefused, match="the job first: choose another name"):
            store.add("second", toml(tmp_path / "style.shira"))
    store.set_state(first.id, "stopped")
    store.add("second", toml(tmp_path / "style.shira"))
    assert [job.name for job in store.all()] == ["first", "second"]


def test_a_copy_writes_to_a_file_of_its_own(store: Store, tmp_path: Path) -> None:
    job = store.add("a job", toml(tmp_path / "style.shira", overwrite=True))
    (tmp_path / "style-2.run").mkdir()
    copies = [store.duplicate(job.id), store.duplicate(job.id)]
    assert [copy.out.name for copy in copies] == ["style-3.shira", "style-4.shira"]
    assert all("overwrite = true" in each.toml for each in (job, *copies))
    assert store.rename(job.id, "b").name == "b"


def test_a_queued_job_that_is_stopped_never_starts(
    store: Store, runners: Callable[[], Runner], tmp_path: Path
) -> None:
    runner = Runner(store)
    job = store.add("a job", toml(tmp_path / "style.shira"))
    assert runner.stop(job.id).state == "stopped"
    marker = store.add("looked at", toml(tmp_path / "other.shira"))
    store.set_state(marker.id, "running")
    runners()
    wait(lambda: not store.get(marker.id).active)
    assert store.get(job.id).started is None
    assert progress(store.get(job.id)).steps == 0


@given(moves=st.lists(st.tuples(st.integers(0, 4), st.integers(-6, 6)), max_size=8))
@settings(max_examples=15, deadline=None)
def test_moving_is_as_in_a_list(
    tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("moves")
    store = Store(folder / "jobs.sqlite")
    order = [store.add(str(n), toml(folder / f"{n}.shira")).id for n in range(5)]
    store.set_state(order[2], "done")
    waiting = [id for id in order if id != order[2]]
    for number, by in moves:
        id = waiting[number % len(waiting)]
        place = min(max(0, waiting.index(id) + by), len(waiting) - 1)
        waiting.remove(id)
        waiting.insert(place, id)
        store.move(id, by)
    assert [job.id for job in store.all() if job.state == "queued"] == waiting


def test_many_threads_lose_nothing(store: Store, tmp_path: Path) -> None:

    def work(number: int) -> None:
        own = Store(store.path)
        for turn in range(5):
            job = own.add(str(number), toml(tmp_path / f"{number}-{turn}.shira"))
            own.move(job.id, -3)
            own.rename(job.id, f"{number} renamed")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = sorted(job.name for job in store.all())
    assert names == sorted(f"{n} renamed" for n in range(6) for _ in range(5))


def test_what_was_acknowledged_survives_a_kill(store: Store, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(store.path), toml(tmp_path / "style.shira")]
    writer = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    lines = [writer.stdout.readline() for _ in range(20)]
    writer.send_signal(signal.SIGKILL)
    lines += writer.stdout.readlines()
    writer.wait()
    known = [job.id for job in store.all()]
    assert [int(line) for line in lines if line.strip()] == known[: len(lines)]
    assert store.add("one more", toml(tmp_path / "more.shira")).id == len(known) + 1


def test_a_lane_is_for_one_device() -> None:
    assert lane("cuda") == lane("cuda:0") != lane("cuda:1")
    assert lane("auto") in (lane("cpu"), lane("cuda"))


def running(store: Store, tmp_path: Path) -> tuple[Job, Path]:
    job = store.add("a job", toml(tmp_path / "style.shira", sample_alphas=[0.5, 1.0]))
    job = store.set_state(job.id, "running")
    job.run_folder.mkdir()
    return job, job.run_folder / "events.jsonl"


def step(number: int, loss: float | None = 0.5, memory: int | None = None, after: float = 0) -> str:
    values = {"event": "step", "time": time.time() + after, "step": number, "loss": loss}
    return json.dumps({**values, "norm": 1.0, "lr": 1e-4, "eta": 7.5, "memory": memory}) + "\n"


def begin(number: int, steps: int = 4, after: float = 0) -> str:
    values: dict[str, object] = {"event": "start", "time": time.time() + after, "step": number}
    values |= {"steps": steps, "pictures": 2, "resolution": 64, "entries": 9, "base": "b"}
    values |= {"architecture": "sd15", "prediction": "epsilon", "device": "cpu", "processes": 1}
    return json.dumps(values) + "\n"


def event(kind: str, **values: object) -> str:
    return json.dumps({"event": kind, "time": time.time(), **values}) + "\n"


def test_progress_follows_a_run_that_goes_on_resumes_and_starts_anew(
    store: Store, tmp_path: Path
) -> None:
    job, path = running(store, tmp_path)
    assert progress(job).steps == 0
    job.folder.mkdir(parents=True)
    job.log.write_text("opening\nencoding\n")
    path.write_text(event("measured", batch=2, batches=50, eta=96))
    told = progress(job)
    assert (told.measured, told.seconds_left, told.steps) == ((2, 50), 96, 0)
    with path.open("a") as file:
        file.write('{"event":"step","time":5.0,"step":9,"loss":9,"norm":9,"lr":9,"eta":9}\n')
        file.write(begin(0) + step(1) + step(2, None) + step(3, 0.25, 1 << 30))
        file.write(event("sample", step=2, path="a.png") + event("checkpoint", step=2))
        file.write(event("news", step=1) + event("warning", message="look") + step(4)[:20])
    told = progress(job)
    assert (told.step, told.steps, told.seconds_left, told.memory) == (3, 4, 7.5, 1 << 30)
    assert told.measured is None
    assert told.losses == ((1, 0.5), (3, 0.25))
    assert [number for number, _ in told.rates] == [1, 2, 3]
    assert [(s.step, s.path.name, s.alphas) for s in told.samples] == [(2, "a.png", (0.5, 1.0))]
    assert (told.checkpoint, told.warnings, told.log) == (2, ("look",), ("opening", "encoding"))

    with path.open("a") as file:  # killed while it wrote; what it did after the checkpoint again
        file.write("\n" + begin(2) + step(3, 0.125) + event("saved", step=3, path="b.shira"))
    told = progress(job)
    assert told.losses == ((1, 0.5), (3, 0.125))
    assert [(kept.step, kept.path.name) for kept in told.checkpoints] == [(3, "b.shira")]

    path.write_text(begin(0, 99) + "".join(step(number) for number in range(1, 51)))
    told = progress(job)
    assert (told.step, told.steps, len(told.losses), told.samples) == (50, 99, 50, ())
    assert progress(store.set_state(job.id, "stopped")).seconds_left is None


def test_how_long_a_step_takes_is_known_without_what_was_before_them(
    store: Store, tmp_path: Path
) -> None:
    job, path = running(store, tmp_path)
    path.write_text(begin(0, after=100))
    assert progress(job).seconds_per_step is None
    with path.open("a") as file:
        file.write(step(1, after=102) + step(2, after=104))
    assert progress(job).seconds_per_step == pytest.approx(2, abs=0.1)
    with path.open("a") as file:  # resumed an hour later, on a faster machine
        file.write(begin(1, after=4000) + step(2, after=4001) + step(3, after=4002))
    job = store.set_state(job.id, "done")
    assert progress(job).seconds_per_step == pytest.approx(1, abs=0.1)


def test_what_is_measured_before_the_steps_is_shown(store: Store, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    from trainer_ui.app.queue import rows

    job, path = running(store, tmp_path)
    path.write_text(event("measured", batch=2, batches=50, eta=96))
    (row,) = rows([job], None)
    assert row["detail"] == "measuring which entries to train, 2 of 50 · 2 min left"


def test_a_hundred_thousand_steps_are_there_at_once(store: Store, tmp_path: Path) -> None:
    """After a restart, too, what was kept in the end is not missing."""
    job, path = running(store, tmp_path)
    count = 100_000
    lines = [begin(0, count), *(step(n, n / 2) for n in range(1, count + 1))]
    path.write_text("".join(lines) + event("saved", step=count, path="b.shira"))
    told = progress(job)
    assert told.losses == tuple((n, n / 2) for n in range(1, count + 1))
    assert [kept.step for kept in told.checkpoints] == [count]
