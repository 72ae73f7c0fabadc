"""Changing what a model wears in a real AUTOMATIC1111: SHiRA against its own Lora at rank 64.

    WEBUI_DIR=... python benchmarks/webui_switch.py

Full-size SD1.5 with the reference base's weights, on the CPU, over HTTP; pictures of 64x64 in one
step, each with a new seed. Timed is the work of either side inside the host, by a probe that wraps
its functions (webui_switch_probe.py), in rounds that take turns; the median of the rounds.
Lora keeps a copy of the whole model from its first use on, which SHiRA then keeps in step: its
rounds are measured without these copies (SHiRA alone) and with them ("shira beside lora").

- first: the first picture with a file after the plain model.
- same: the picture after it, nothing changed. SHiRA gives the model back after each picture and
  changes it again; Lora leaves it changed.
- alpha: another strength. switch: another file, both used before. remove: the plain model again.

The host's Python is WEBUI_PYTHON, or that of a `venv` in the checkout.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from comfyui_switch import DENSITY, FILES, RANK, matrices, random_adapter, random_lora
from common import HERE, save_results
from safetensors.torch import save_file

sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent)]
import hosts  # noqa: E402 - the tests know how to run a host
from webui_hosts import CLONE, ON_CPU, START, WITHOUT_PAGE  # noqa: E402

ACTIONS = ("first", "same", "alpha", "switch", "remove")
BESIDE = "shira beside lora"
GOAL = 10  # times faster than Lora at another alpha and a switch


def write_files(data: Path) -> None:
    """Write the checkpoint, adapters and LoRAs of its attention and feed-forward weights."""
    from shira_core.cli import main as shira

    checkpoint = data / "checkpoints" / "plain.safetensors"
    for folder in ("checkpoints", "models/shira", "models/Lora"):
        (data / folder).mkdir(parents=True)
    assert shira(["reference", str(checkpoint)]) == 0
    layers = dict(matrices(checkpoint))
    for seed, (ours, theirs) in enumerate(zip(FILES["shira"], FILES["lora"], strict=True)):
        random_adapter(layers, seed).save(data / "models" / "shira" / ours)
        lora = {webui_name(key): value for key, value in random_lora(layers, seed).items()}
        save_file(lora, str(data / "models" / "Lora" / theirs))


def webui_name(key: str) -> str:
    """Return the name that the built-in Lora knows a LoRA's weight by; it takes no dots."""
    layer, part, end = key.rsplit(".", 2)
    return f"lora_unet_{layer.removeprefix('diffusion_model.').replace('.', '_')}.{part}.{end}"


@contextmanager
def serving(data: Path) -> Iterator[Any]:
    """Start the host with our extension and the probe."""
    checkout = hosts.checkout("WEBUI_DIR", "WEBUI_PYTHON")
    probe = data / "extensions" / "z-probe" / "scripts"  # after the extension that it wraps
    probe.mkdir(parents=True)
    shutil.copy(HERE / "webui_switch_probe.py", probe)
    (data / "extensions" / CLONE).symlink_to(HERE.parent)
    folders = ("--data-dir", str(data), "--ckpt-dir", str(data / "checkpoints"))
    start = (*START, *WITHOUT_PAGE, *ON_CPU["a1111"], *folders)
    with hosts.serving(checkout, start, data / "log.txt", "/sdapi/v1/options") as server:
        yield server


class Bench:
    """Draws, and asks for the seconds of work; every picture has a seed of its own."""

    def __init__(self, server: Any) -> None:
        self.server, self.seed = server, 0

    def seconds(self, kind: str, *worn: tuple[str, float]) -> float:
        """Return the seconds that one side works for a picture with (file, alpha)."""
        self.seed += 1
        tags = "".join(f"<{kind}:{Path(file).stem}:{alpha}>" for file, alpha in worn)
        size = {"width": 64, "height": 64, "steps": 1, "seed": self.seed}
        self.server.ask("/bench/seconds")
        answer = self.server.ask("/sdapi/v1/txt2img", {"prompt": f"cat{tags}", **size}, 600)
        assert "SHiRA error" not in answer["info"], answer["info"]
        return float(self.server.ask("/bench/seconds")[kind])


def one_round(bench: Bench, kind: str) -> dict[str, float]:
    """Return the seconds of each action; the host wears nothing before and after."""
    first, second = FILES[kind]
    bench.seconds(kind)
    found = {
        "first": bench.seconds(kind, (first, 1.0)),
        "same": bench.seconds(kind, (first, 1.0)),
        "alpha": bench.seconds(kind, (first, 0.5)),
    }
    bench.seconds(kind, (second, 1.0))
    found["switch"] = bench.seconds(kind, (first, 0.5))
    found["remove"] = bench.seconds(kind)
    return found


def measure(repeats: int, note: Callable[[str], None]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        write_files(data)
        with serving(data) as server:
            bench = Bench(server)
            rounds: dict[str, list[dict[str, float]]] = {"shira": [], "lora": [], BESIDE: []}
            for _ in range(repeats):
                for name, kept in rounds.items():
                    kept.append(one_round(bench, name.partition(" ")[0]))
                    note(f"{name} {kept[-1]}")
                server.ask("/bench/forget")
    return {kind: medians(kept) for kind, kept in rounds.items()}


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in rounds) for name in ACTIONS}


def ratios(results: dict[str, dict[str, float]], name: str) -> dict[str, float]:
    """Return how many times faster SHiRA is, where a person has changed something."""
    changes = ("first", "alpha", "switch")
    return {each: results["lora"][each] / results[name][each] for each in changes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    results = measure(args.repeats, lambda line: print(line, flush=True))
    faster = {name: ratios(results, name) for name in ("shira", BESIDE)}
    for name, found in faster.items():
        for action, ratio in found.items():
            print(f"{name}, {action}: {ratio:.1f} times faster than Lora (goal {GOAL})")
    settings = {"repeats": args.repeats, "rank": RANK, "density": DENSITY}
    save_results("webui", {**settings, **results, "times faster": faster})


if __name__ == "__main__":
    main()
