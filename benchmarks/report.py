"""Write docs/benchmarks.md from the results in benchmarks/results.

python benchmarks/report.py
"""

from __future__ import annotations

from typing import Any

import report_hosts as hosts
import report_training as steps
from common import DOCS, RESULTS, read_results

Rows = list[list[str]]
METHODS = {
    "shira": "SHiRA, 2 %, random entries",
    "shira-shared": "SHiRA, 2 %, both adapters on one mask (as WM gives)",
    "shira-struct": "SHiRA-Struct, 2 %, rows and diagonal",
    "shira-struct-shared": "SHiRA-Struct, both adapters on one mask (of one shard)",
    "shira-equal": "SHiRA, LoRA's number of parameters, random entries",
    "lora": "diffusers + PEFT LoRA, r = 64",
    "peft-shira": "PEFT SHiRA, LoRA's number of parameters",
}
INTRO = """# Benchmarks

Measured by the scripts in `benchmarks/` and written by `python benchmarks/report.py`; do not edit.
Every method runs in a process of its own; figures are medians of one run. `benchmarks/README.md`
says what each script does."""


def table(head: list[str], rows: Rows) -> str:
    """Return a Markdown table, first column left, others right."""
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def goals() -> str:
    """Return every goal, the figure, and whether it is met."""
    rows: Rows = []

    def at_least(label: str, goal: float, value: float) -> None:
        rows.append([label, f">= {goal:g}x", f"{value:.1f}x", verdict(value >= goal)])

    def at_most(label: str, goal: float, value: float, unit: str) -> None:
        rows.append([label, f"<= {goal:g} {unit}", f"{value:.3g} {unit}", verdict(value <= goal)])

    if switch := results_of("switch"):
        for dtype in dtypes_of(switch):
            ratio = switch[dtype]["ratios"]
            for kind, prefix in (("random entries", ""), ("Struct", "Struct: ")):
                at_least(
                    f"warm switch against LoRA fuse, {kind}, {dtype}",
                    40,
                    ratio[f"{prefix}switch over LoRA fuse"],
                )
                at_least(
                    f"cold against LoRA load + fuse, {kind}, {dtype}",
                    10,
                    ratio[f"{prefix}cold over LoRA load + fuse"],
                )
                at_least(
                    f"restore against LoRA unfuse, {kind}, {dtype}",
                    40,
                    ratio[f"{prefix}restore over LoRA unfuse"],
                )
            changed = switch[dtype]["shira"]["changed_after_restore"]
            rows.append(
                [f"entries wrong after restore, {dtype}", "0", str(changed), verdict(changed == 0)]
            )
    if sizes := results_of("layer_sizes"):
        for dtype in dtypes_of(sizes):
            time = sizes[dtype]["4096"]["shira_write_ms"]
            at_most(f"4096x4096 at 2 %, write, {dtype}", 0.6, time, "ms")
    if files := results_of("file_size"):
        for mask, row in files["rows"].items():
            goal = 2.05 if mask.startswith("struct") else 3.1
            at_most(f"file, {mask}", goal, row["bytes_per_entry"], "bytes per entry")
    if info := results_of("info"):
        size = info["bytes"] / 1e6
        at_most(f"`shira info` on a {size:.0f} MB file", 300, info["info_ms"], "ms")
    if comfyui := results_of("comfyui"):
        rows += hosts.comfyui_goals(comfyui)
    if webui := results_of("webui"):
        rows += hosts.webui_goals(webui)
    for name, rows_of in STEP_GOALS.items():
        if results := results_of(name):
            rows += rows_of(results)
    return "## Goals\n\n" + table(["figure", "goal", "measured", ""], rows)


def verdict(met: bool) -> str:
    return "met" if met else "**missed**"


def switching(results: dict[str, Any]) -> str:
    """Return the tables of adapter switching on SD1.5."""
    parts = ["## Switching adapters on a full-size SD1.5 UNet, CPU"]
    parts.append(
        "All Linear weights of the transformer blocks: `to_q`, `to_k`, `to_v`, `to_out.0`,"
        " `ff.net.0.proj`, `ff.net.2`. Times in milliseconds. For LoRA and PEFT's SHiRA a switch or"
        " a new alpha is undo + apply. Wrong: weight entries that are not the base's, bit for bit,"
        " after applying and undoing."
    )
    head = [
        "",
        "entries",
        "file MB",
        "apply",
        "switch",
        "alpha",
        "cold",
        "restore",
        "wrong",
        "peak GB",
    ]
    for dtype in dtypes_of(results):
        rows = [switch_row(label, results[dtype][key]) for key, label in METHODS.items()]
        parts += [f"### {dtype}", table(head, rows), ratios_and_limits(results[dtype])]
    return "\n\n".join(parts)


def switch_row(label: str, row: dict[str, Any]) -> list[str]:
    times = ("load_active_ms", "switch_ms", "alpha_ms", "cold_ms", "restore_ms")
    return [
        label,
        f"{row['entries'] / 1e6:.2f} M",
        f"{row['file_bytes'] / 1e6:.1f}",
        *(f"{row[time]:.1f}" for time in times),
        str(row["changed_after_restore"]),
        f"{row['peak_gb']:.1f}",
    ]


def ratios_and_limits(results: dict[str, Any]) -> str:
    """Return the ratios and what the machine allows."""
    limits = results["limits"]
    rows = [[label, f"{ratio:.1f}x"] for label, ratio in results["ratios"].items()]
    return (
        table(["how many times faster", ""], rows)
        + "\n\nPhysical limit in this run: writing finished values to the"
        f" {limits['entries'] / 1e6:.2f} M entries takes {limits['put_ms']:.1f} ms, reading them"
        f" {limits['gather_ms']:.1f} ms: at 2 % almost every entry touches a cache line of its own,"
        " so memory lines bound a switch, not arithmetic. Reading and writing every target weight"
        f" once, the least that any fusing has to do, takes {limits['rewrite_all_ms']:.1f} ms.\n\n"
        "A switch between two random masks writes twice and reads once; between adapters on one"
        " mask, and for a new alpha, it writes once; taking an adapter off writes once. That one"
        f" write alone would be {restore_limit(results):.0f}x as fast as LoRA's unfuse in this run,"
        " so that the goals, set where memory was quicker, are out of reach for random entries."
    )


def restore_limit(results: dict[str, Any]) -> float:
    """Return how much faster than LoRA's unfuse a single pass over the entries could be."""
    return results["lora"]["restore_ms"] / results["limits"]["put_ms"]


def layer_sizes(results: dict[str, Any]) -> str:
    """Return the tables per square size (paper, Figure 7)."""
    parts = ["## One square weight (the paper's Figure 7; theirs: 5x to 16x)"]
    parts.append(
        "LoRA fuse is `W += B A` at rank 64. Write overwrites 2 % of the entries with finished"
        " values, which is what the paper times; switch is `stack.set` from one adapter to another,"
        " including restoring the first and computing the second. Milliseconds."
    )
    head = [
        "size",
        "LoRA fuse",
        "write",
        "ratio",
        "switch",
        "ratio",
        "`scatter_`",
        "gather (limit)",
    ]
    for dtype in dtypes_of(results):
        rows = []
        for size, row in results[dtype].items():
            cells = [f"{row['lora_fuse_ms']:.2f}", f"{row['shira_write_ms']:.3f}"]
            cells += [f"{row['write_ratio']:.1f}x", f"{row['shira_switch_ms']:.3f}"]
            cells += [f"{row['switch_ratio']:.1f}x", f"{row['torch_scatter_ms']:.3f}"]
            rows.append([size, *cells, f"{row['gather_ms']:.3f}"])
        parts += [f"### {dtype}", table(head, rows)]
    return "\n\n".join(parts)


def files(results: dict[str, Any]) -> str:
    """Return the table of file sizes."""
    rows = [
        [mask, f"{row['entries']:,}", f"{row['bytes']:,}", f"{row['bytes_per_entry']:.3f}"]
        for mask, row in results["rows"].items()
    ]
    return "## File size\n\n" + table(["mask", "entries", "bytes", "bytes per entry"], rows)


def info(results: dict[str, Any]) -> str:
    """Return the times of `shira info`."""
    rows = [
        ["`shira info`", f"{results['info_ms']:.0f}"],
        ["`shira info --json`", f"{results['info_json_ms']:.0f}"],
        ["`python -c pass`", f"{results['python_ms']:.0f}"],
        ['`python -c "import torch"`', f"{results['import_torch_ms']:.0f}"],
    ]
    title = f"## `shira info` on a file of {results['bytes'] / 1e6:.0f} MB, new process each time"
    return f"{title}\n\n" + table(["command", "ms"], rows)


def comparing(results: dict[str, Any]) -> str:
    """Return time and memory of `shira.compare`."""
    rows = [
        [
            model,
            str(row["weights"]),
            f"{row['entries'] / 1e6:.1f} M",
            f"{row['seconds']:.1f}",
            f"{row['peak_gb']:.2f}",
        ]
        for model, row in results["models"].items()
    ]
    head = ["UNet", "weights", "entries", "seconds", "peak GB"]
    return "## `shira.compare` of two adapters that change every weight at 2 %\n\n" + table(
        head, rows
    )


SECTIONS = {
    "switch": switching,
    "layer_sizes": layer_sizes,
    "file_size": files,
    "info": info,
    "compare_speed": comparing,
    "training_memory": steps.kept,
    "training_speed": steps.speed,
    "training_floor": steps.floor,
    "training_speed_h200": steps.other_card,
    "memory_estimate": steps.memory,
    "trainer_gpu": steps.runs,
    "trainer_processes": steps.processes,
    "comfyui": hosts.comfyui,
    "webui": hosts.webui,
}
STEP_GOALS = {
    "training_speed": steps.goals,
    "memory_estimate": steps.estimate_goals,
    "trainer_gpu": steps.run_goals,
}


def results_of(name: str) -> dict[str, Any] | None:
    """Return saved results, or None where the script has not run."""
    return read_results(name) if (RESULTS / f"{name}.json").exists() else None


def dtypes_of(results: dict[str, Any]) -> list[str]:
    return [dtype for dtype in ("fp32", "bf16") if dtype in results]


def where(results: dict[str, Any]) -> str:
    """Return the machine in a sentence."""
    machine = results["machine"]
    return (
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads,"
        f" torch {machine['torch']}, Python {machine['python']}."
    )


def main() -> None:
    found = {name: results for name in SECTIONS if (results := results_of(name))}
    parts = [INTRO]
    parts += sorted({where(results) for results in found.values() if "machine" in results})
    parts.append(goals())
    parts += [SECTIONS[name](results) for name, results in found.items()]
    (DOCS / "benchmarks.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
