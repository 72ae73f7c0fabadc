"""Real runs of `shira train`, one per preset, on full-size random SD1.5 and SDXL checkpoints.

    python benchmarks/trainer_gpu.py                   # all presets, on the GPU
    python benchmarks/trainer_gpu.py --only low-memory
    python benchmarks/trainer_gpu.py --tiny            # does it run? small models, two steps

Each preset trains STEPS steps on real pictures of several shapes, in a process of its own, without
network, and draws a sample where the preset does. Per preset:
- estimate_gb: what `shira train --dry-run` says that a step (or a sample) takes.
- peak_bytes: the most in torch's allocator: `opening` until the first step or measured batch
  (pictures and prompts are encoded), `measuring`, `steps`, `samples`; `reserved`: the most that it
  took.
- measuring_s: seconds from the first to the last batch of a mask that is measured first.
- host_bytes: the most main memory that the process had, files that it mapped included.
- step_ms: median time of a step with all that belongs to it, such as `accumulate` batches.
- verified: what `shira verify --base` says.
- changed, restored: the diffusers helper applied the adapter, which changed so many weights, and
  removing it gave every bit back.
A result is written as soon as it is there, and a preset that has one is not run again.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import itertools
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import training_checkpoints as checkpoints
from common import RESULTS, machine

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "assets" / "samples" / "contrast"
PRESETS = {
    "low-memory": "sdxl",
    "sd15-style": "sd15",
    "sdxl-style": "sdxl",
    "sdxl-dreambooth": "sdxl",
    "fast-draft": "sd15",
}
STEPS, SETTLED = 12, 4  # steps in all, and those that are not timed
SHAPES = ((1024, 1024), (768, 1024), (1024, 768), (640, 960), (1024, 576), (512, 512))
LIMIT = {"low-memory": 10e9}  # bytes
TOLERANCE = 0.1


def write_pictures(folder: Path, shrink: int) -> Path:
    """Write the sample pictures in several sizes and shapes, with their captions."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(sorted(PICTURES.glob("*.png"))[:12]):
        width, height = SHAPES[number % len(SHAPES)]
        with Image.open(path) as picture:
            size = (width // shrink, height // shrink)
            picture.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(folder / path.name)
        (folder / f"{path.stem}.txt").write_text(path.with_suffix(".txt").read_text())
    return folder


class Bench:
    """The files of the runs, and the command that is measured."""

    def __init__(self, folder: Path, tiny: bool) -> None:
        self.folder, self.tiny = folder, tiny
        self.pictures = write_pictures(folder / "pictures", 8 if tiny else 1)

    def base(self, kind: str) -> Path:
        """Return a checkpoint, written when it is first wanted."""
        path = self.folder / f"{kind}.safetensors"
        if not path.exists():
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            checkpoints.write(
                path, (checkpoints.TINY if self.tiny else checkpoints.FULL)[kind], device
            )
        return path

    def measure(self, preset: str) -> dict[str, Any]:
        """Run one preset and everything that is asked of its adapter."""
        base, out = self.base(PRESETS[preset]), self.folder / f"{preset}.shira"
        out.unlink(missing_ok=True)
        flags = self._flags(preset, base, out)
        planned = self._shira(*flags, "--dry-run")
        row: dict[str, Any] = {"dry_run_exit": planned.returncode, **_estimate(planned.stdout)}
        notes = self.folder / f"{preset}.json"
        trained = self._own("--train", notes, *flags)
        row["exit"] = trained.returncode
        if trained.returncode:
            return {**row, "error": (trained.stderr or planned.stderr).strip().splitlines()[-1]}
        row |= {"bytes": out.stat().st_size, **json.loads(notes.read_text())}
        row |= times(out.with_suffix(".run") / "events.jsonl")
        verified = self._shira("verify", out, "--base", base, "--json")
        row["verified"] = json.loads(verified.stdout) if verified.stdout else verified.stderr
        applied = self._own("--apply", base, out)
        row |= json.loads(applied.stdout.splitlines()[-1]) if applied.stdout else {}
        if applied.returncode:
            row["error"] = applied.stderr.strip().splitlines()[-1]
        return row

    def _flags(self, preset: str, base: Path, out: Path) -> list[Any]:
        steps = 2 if self.tiny else STEPS
        flags = ["train", "--preset", preset, "--base", base, "--images", self.pictures]
        flags += ["--out", out, "--trigger", "contrast style", "--steps", steps, "--warmup", 0]
        flags += ["--sample-every", 0, "--sample-steps", 4]
        if preset == "sdxl-dreambooth":
            flags += ["--class-images", self.pictures, "--class-prompt", "a drawing"]
        return [*flags, *(("--resolution", 64) if self.tiny else ())]

    def _shira(self, *arguments: Any) -> subprocess.CompletedProcess[str]:
        return run("-m", "shira_core.cli", *arguments)

    def _own(self, *arguments: Any) -> subprocess.CompletedProcess[str]:
        return run(Path(__file__).resolve(), *arguments)


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def _estimate(text: str) -> dict[str, float]:
    """Return the gigabytes that a dry run tells: the most of a run, and what should be free."""
    numbers = re.findall(r"([\d.]+) GB", next((x for x in text.splitlines() if " GB " in x), ""))
    if not numbers:
        return {}
    *peaks, free = map(float, numbers)
    return {"estimate_gb": max(peaks), "free_gb": free}


def times(path: Path) -> dict[str, float]:
    told = [json.loads(line) for line in path.read_text().splitlines()]
    moments = [each["time"] for each in told if each["event"] == "step"]
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    found = {"step_ms": round(1e3 * statistics.median(gaps[SETTLED:] or gaps), 1)}
    measured = [each["time"] for each in told if each["event"] == "measured"]
    return found | ({"measuring_s": round(measured[-1] - measured[0], 1)} if measured else {})


def train(notes: Path, arguments: list[str]) -> int:
    """Run `shira` here, and note the most memory before each of its events."""
    from shira_core import cli
    from trainer_ui.engine import events

    tell, rows = events.Events.emit, []

    def emit(self: events.Events, event: events.Event) -> None:
        rows.append((_part(event), *_peak()))
        tell(self, event)

    events.Events.emit = emit  # type: ignore[method-assign]
    code = cli.main(arguments)
    peaks = {
        part: max((row[1] for row in rows if row[0] == part), default=0)
        for part in ("opening", "measuring", "steps", "samples")
    }
    reserved = max((row[2] for row in rows), default=0)
    host = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = {"peak_bytes": peaks, "reserved": reserved, "host_bytes": host}
    notes.write_text(json.dumps(told))
    return code


def _part(event: Any) -> str:
    """Return which part of a run an event ends; the first batch of a measurement is opening's."""
    if event.event == "measured":
        return "measuring" if event.batch > 1 else "opening"
    return {"step": "steps", "sample": "samples"}.get(event.event, "opening")


def _peak() -> tuple[int, int]:
    """Return the most bytes allocated and reserved since the last call."""
    if not torch.cuda.is_available():
        return 0, 0
    peak = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    return peak


def apply(base: Path, adapter: Path) -> dict[str, Any]:
    """Load an adapter into a diffusers pipeline and remove it; return what happened to it."""
    from shira_core.integrations.diffusers import load_shira
    from trainer_ui.engine.base import open_base

    pipe = _pipeline(open_base(base, torch.float16))
    before = _digests(pipe)
    loaded = load_shira(pipe, adapter)
    during = _digests(pipe)
    loaded.remove()
    changed = sum(before[name] != during[name] for name in before)
    return {"changed": changed, "restored": before == _digests(pipe)}


def _pipeline(base: Any) -> Any:
    import diffusers

    texts = [each.module for each in base.text_encoders]
    scheduler = diffusers.EulerDiscreteScheduler.from_config(dict(base.scheduler))
    common = {"vae": base.vae, "unet": base.unet, "scheduler": scheduler, "tokenizer": None}
    if len(texts) == 1:
        parts = {
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }
        pipe = diffusers.StableDiffusionPipeline(text_encoder=texts[0], **common, **parts)
    else:
        pair = {"text_encoder": texts[0], "text_encoder_2": texts[1], "tokenizer_2": None}
        pipe = diffusers.StableDiffusionXLPipeline(**pair, **common)
    return pipe.to("cuda") if torch.cuda.is_available() else pipe


def _digests(pipe: Any) -> dict[str, str]:
    """Return a hash of each weight's bytes."""
    parts: Iterable[tuple[str, Any]] = ((n, getattr(pipe, n, None)) for n in _PARTS)
    return {
        f"{part}.{name}": hashlib.sha256(
            value.detach().reshape(-1).view(torch.uint8).cpu().numpy().data
        ).hexdigest()
        for part, module in parts
        if module is not None
        for name, value in module.state_dict().items()
    }


_PARTS = ("unet", "text_encoder", "text_encoder_2")


def sentence(preset: str, row: dict[str, Any]) -> str:
    """Say what a run was like, the goals of its memory included."""
    if "error" in row:
        return f"{preset}: exit {row['exit']}: {row['error']}"
    peak = max(row["peak_bytes"].values())
    words = [f"{preset}: {row['step_ms']:.0f} ms a step, at most {peak / 1e9:.2f} GB"]
    if peak:
        ratio = row["estimate_gb"] * 1e9 / peak
        words.append(
            f"estimated {ratio:.2f} times{'' if abs(ratio - 1) < TOLERANCE else ': MISSED'}"
        )
    if preset in LIMIT:
        fits = row["reserved"] <= LIMIT[preset]
        words.append(
            f"reserved {row['reserved'] / 1e9:.2f} of {LIMIT[preset] / 1e9:.0f} GB: "
            f"{'fits' if fits else 'TOO MUCH'}"
        )
    words.append(
        f"{row['changed']} weights changed and {'' if row['restored'] else 'NOT '}restored"
    )
    return ", ".join(words)


def main() -> None:
    if sys.argv[1:2] == ["--train"]:
        sys.exit(train(Path(sys.argv[2]), sys.argv[3:]))
    if sys.argv[1:2] == ["--apply"]:
        print(json.dumps(apply(*map(Path, sys.argv[2:4]))))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=["*"], help="patterns of presets")
    parser.add_argument("--out", type=Path, default=RESULTS / "trainer_gpu.json")
    parser.add_argument("--folder", type=Path, help="where checkpoints stay for another call")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds to start presets in")
    parser.add_argument("--tiny", action="store_true", help="small models, two steps")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as temporary:
        bench, started = Bench(args.folder or Path(temporary), args.tiny), time.perf_counter()
        results = json.loads(args.out.read_text()) if args.out.exists() else {}
        rows = results.setdefault("rows", {})
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        for preset in PRESETS:
            wanted = any(fnmatch.fnmatch(preset, pattern) for pattern in args.only)
            late = time.perf_counter() - started > args.budget
            if not wanted or late or preset in rows:
                continue
            rows[preset] = bench.measure(preset)
            print(sentence(preset, rows[preset]), flush=True)
            content = {"machine": machine(), "device": device, **results}
            args.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
