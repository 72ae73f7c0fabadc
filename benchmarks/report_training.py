"""The sections of docs/benchmarks.md on training steps: speed, memory, and what bounds them."""

from __future__ import annotations

from typing import Any

Rows = list[list[str]]
Figures = dict[str, dict[str, Any]]
MODELS = {"sd15": "SD1.5, 512 px", "sdxl": "SDXL, 1024 px"}
FASTER = {"sd15": 1.5, "sdxl": 2.0}
LEANER = {"wm": 1.0, "columns": 0.83}  # peak memory as a share of LoRA's
METHODS = {
    "lora": "PEFT LoRA",
    "dora": "PEFT DoRA",
    "peft-shira": "PEFT SHiRA",
    "wm": "wm",
    "columns": "struct, columns",
    "struct": "struct, rows, columns, diagonal",
    "wm-all": "wm, 2 % of all Linear and Conv",
    "columns-all": "struct, columns, 2 % of all",
}
WAYS = {"": "", "-plain": "no autocast", "-graph": "replayed", "-plain-graph": "both"}
MAIN = ("sd15-b4", "sdxl-b1-ck")
SIZED = "sd15-b4"  # with other numbers of entries
GB = 1e9
OURS, THEIRS = 4 + 4 + 8 + 4 + 2, 4 + 4 + 8  # bytes per parameter, see `memory`
LAYERS = {
    "frozen": "nothing trained",
    "lora": "PEFT LoRA, r = 13",
    "wm": "SHiRA-WM",
    "gathered": "SHiRA-Struct, columns, from the dense gradient",
    "columns": "SHiRA-Struct, columns",
    "columns-diagonal": "SHiRA-Struct, columns and diagonal",
    "rows": "SHiRA-Struct, rows",
    "rows-diagonal": "SHiRA-Struct, rows and diagonal",
}
LIMIT = 10  # GB, SDXL with the preset of least memory


def goals(results: dict[str, Any]) -> Rows:
    """Return the rows of the goals' table: label, goal, measured, met or not."""
    found, rows = _measured(results), []
    for setting in MAIN:
        goal, lora = FASTER[_model(setting)], f"{setting}/lora"
        for ours, theirs, how in (
            ("", "", "both step by step"),
            ("-graph", "", "ours replayed, LoRA as PEFT runs it"),
            ("-graph", "-graph", "both replayed"),
        ):
            one, other = found.get(f"{setting}/wm{ours}"), found.get(lora + theirs)
            if one and other:
                ratio = other["step_ms"] / one["step_ms"]
                label = f"training, {_named(setting)}: wm against LoRA, {how}"
                rows.append([label, f">= {goal:g}x", f"{ratio:.2f}x", _verdict(ratio >= goal)])
        for method, share in LEANER.items():
            one, other = found.get(f"{setting}/{method}"), found.get(lora)
            if one and other and "allocated" in one:
                part = one["allocated"] / other["allocated"]
                label = f"training, {_named(setting)}: peak memory of {METHODS[method]}, of LoRA's"
                rows.append([label, f"<= {share:.0%}", f"{part:.0%}", _verdict(part <= share)])
    return rows


def estimate_goals(results: dict[str, Any]) -> Rows:
    """Return the row on the estimate of memory."""
    off = max(abs(row["ratio"] - 1) for row in results["rows"].values())
    return [
        ["estimate of a step's memory, at most off", "<= 10%", f"{off:.1%}", _verdict(off <= 0.1)]
    ]


def run_goals(results: dict[str, Any]) -> Rows:
    """Return the row on the preset that needs the least memory."""
    row = results["rows"].get("low-memory", {})
    if "reserved" not in row:
        return []
    took = row["reserved"] / GB
    label = "`shira train --preset low-memory`, SDXL, 1024 px, batch 1"
    return [[label, f"<= {LIMIT} GB", f"{took:.1f} GB", _verdict(took <= LIMIT)]]


def speed(results: dict[str, Any]) -> str:
    """Return the table of each setting, the steps taken, and what bounds them."""
    found = _measured(results)
    parts = [f"## A training step on one {next(iter(found.values()))['device']}"]
    parts.append(
        "Full-size UNets with random weights, random batches; all methods adapt the Linear layers"
        " of the attention blocks with the parameters of LoRA at rank 32 and use torch's fused"
        " AdamW. Milliseconds, and how many times as fast as PEFT LoRA in the same column."
        " *No autocast*: everything is bfloat16 but our vector. *Replayed*: a CUDA graph holds the"
        " whole step, so that Python takes no time; PEFT's LoRA is captured in the same way, which"
        " it does not do by itself. Peak: most in torch's allocator, step by step under autocast."
    )
    return "\n\n".join([*parts, *_settings(results["rows"]), _steps_taken(found), _host(found)])


def other_card(results: dict[str, Any]) -> str:
    """Return what was measured on another GPU: the same tables, and what more entries cost."""
    found = _measured(results)
    title = f"## A training step on one {next(iter(found.values()))['device']}"
    words = "As above; other cases beside the main ones, which show how the two machines compare."
    return "\n\n".join([title, words, *_settings(results["rows"]), _by_entries(found)])


def _settings(rows: Figures) -> list[str]:
    """Return heading and table of each setting."""
    parts: list[str] = []
    head = ["", "parameters", *(text or "ms" for text in WAYS.values()), "peak GB"]
    for setting in dict.fromkeys(name.split("/")[0] for name in rows):
        lines = [row for method in METHODS if (row := _row(rows, setting, method))]
        parts += [f"### {_named(setting)}", _table(head, lines)]
    return parts


def _by_entries(found: Figures) -> str:
    """Return time and memory of a step by the number of entries, with the bytes of one more."""
    rows, words = [], []
    for method in ("wm", "columns"):
        sizes = [found[f"{SIZED}/{method}{rank}"] for rank in ("@8", "@16", "", "@64", "@128")]
        for row in sizes:
            cells = (f"{row['parameters'] / 1e6:.1f} M", f"{row['step_ms']:.0f}")
            rows.append([METHODS[method], *cells, f"{row['allocated'] / GB:.2f}"])
        first, last = sizes[0], sizes[-1]
        each = (last["allocated"] - first["allocated"]) / (last["parameters"] - first["parameters"])
        words.append(f"{each:.0f} bytes of {METHODS[method]}")
    return (
        f"### By the number of entries: {_named(SIZED)}, step by step\n\n"
        f"One more entry takes {' and '.join(words)}, at any size. Time does not follow"
        " the entries at all: what differs is how long Python took in that process.\n\n"
        + _table(["", "entries", "ms", "peak GB"], rows)
    )


def processes(results: dict[str, Any]) -> str:
    """Return how much faster two GPUs are than one."""
    rows = [
        [
            MODELS[model],
            f"{row['one_ms']:.0f}",
            f"{row['two_ms']:.0f}",
            f"{row['one_ms'] / row['two_ms']:.2f}x",
            f"{row['apart']:.1%}",
        ]
        for model, row in results["rows"].items()
    ]
    return (
        f"## One GPU and two, {results['device']}\n\n"
        "`shira train` with the presets of styles (mask wm), full-size random checkpoints: one"
        " process that accumulates two batches, and two processes, started by torchrun, with one"
        " each. Milliseconds of a step. Apart: how far the two adapters are from each other, since"
        " GPUs add up in varying order; small models' on a CPU are equal bit for bit.\n\n"
        + _table(["", "one GPU", "two", "faster", "apart"], rows)
    )


def _row(found: Figures, setting: str, method: str) -> list[str]:
    """Return one method's cells, or nothing where it was not measured."""
    own = found.get(f"{setting}/{method}", {})
    measured = [each for way in WAYS if (each := found.get(f"{setting}/{method}{way}"))]
    sizes = [each["parameters"] for each in measured if "parameters" in each]
    if not sizes:
        return []
    cells = [_cell(found, setting, method, way) for way in WAYS]
    peak = f"{own['allocated'] / GB:.2f}" if "allocated" in own else ""
    return [METHODS[method], f"{sizes[0] / 1e6:.1f} M", *cells, peak]


def _cell(found: Figures, setting: str, method: str, way: str) -> str:
    one, lora = found.get(f"{setting}/{method}{way}"), found.get(f"{setting}/lora{way}")
    if not one or "error" in one:
        return one["error"] if one else ""
    ratio = f" ({lora['step_ms'] / one['step_ms']:.2f}x)" if lora and method != "lora" else ""
    return f"{one['step_ms']:.0f}{ratio}"


def _steps_taken(found: Figures) -> str:
    """Return what each step towards the goals was expected to give, and gave."""

    def ms(name: str, key: str = "step_ms") -> str:
        return f"{found[name][key]:.1f}" if name in found else "?"

    a, b = MAIN
    rows = [
        [
            "no adapter branch in the forward pass",
            "forward of SDXL loses LoRA's 3 launches per layer",
            f"{ms(f'{b}/lora', 'forward_ms')} to {ms(f'{b}/wm', 'forward_ms')} ms",
        ],
        [
            "one flat vector",
            "the optimizer has one tensor, not 256",
            f"{ms(f'{a}/lora', 'optimizer_ms')} to {ms(f'{a}/wm', 'optimizer_ms')} ms",
        ],
        [
            "struct, columns: only the gradient that is kept",
            "less time and memory than wm",
            f"{ms(f'{a}/wm')} to {ms(f'{a}/columns')} ms: as many calls a layer; less memory",
        ],
        [
            "struct with rows and a diagonal",
            "the same",
            f"{ms(f'{a}/struct')} ms: ten launches a layer for wm's two, and all inputs are kept",
        ],
        [
            "no autocast",
            "no casts, so fewer launches",
            f"{ms(f'{a}/wm')} to {ms(f'{a}/wm-plain')} ms (LoRA: {ms(f'{a}/lora-plain')})",
        ],
        [
            "the step replayed",
            "as long as the GPU computes: SD1.5 took as long with 1 picture as with 4",
            f"{ms(f'{a}/wm')} to {ms(f'{a}/wm-graph')} ms, SDXL {ms(f'{b}/wm')} to "
            f"{ms(f'{b}/wm-graph')} ms",
        ],
    ]
    return "### Steps taken\n\n" + _table(["", "expected", "measured"], rows, right=False)


def _host(found: Figures) -> str:
    """Return how long the GPU waits for Python."""
    words = []
    for setting in MAIN:
        one, other = (found.get(f"{setting}/wm{way}") for way in ("", "-graph"))
        if one and other:
            idle = 1 - other["step_ms"] / one["step_ms"]
            words.append(
                f"{_named(setting)}: of {one['step_ms']:.0f} ms the GPU computes "
                f"{other['step_ms']:.0f} and waits for Python {idle:.0%} of the time"
            )
    return (
        "### What bounds a step\n\n"
        f"Launching. {'; '.join(words)}. A step is thousands of small kernels, and a replayed one"
        " launches none. Step by step, a method is as fast as it has few calls per layer; what is"
        " saved in bytes and products does not show."
    )


def floor(results: dict[str, Any]) -> str:
    """Return the operations of single layers, and the most that can be gained on them."""
    rows = []
    for layer, row in results["rows"].items():
        common = row["forward"] + row["by_input"]
        ours = row["by_weight"] + row["gather"] + row["write"]
        columns = row["columns"] + row["gather"] + row["write"]
        ratios = [(common + row["lora"]) / (common + each) for each in (ours, columns, 0)]
        times = [f"{each:.0f}" for each in (common, row["lora"], ours, columns)]
        rates = [f"{row['by_weight_tflops']:.0f}", f"{row['gather_gb_s']:.0f}"]
        rows.append([layer, *times, *rates, *(f"{each:.2f}x" for each in ratios)])
    head = ["layer", "all need", "LoRA adds", "wm adds", "columns add"]
    head += ["TFLOP/s", "GB/s", "wm", "columns", "nothing added"]
    return (
        f"### The floor: single Linear layers, replayed, {results['device']}\n\n"
        "Microseconds. All methods need the forward product and dL/dx; wm adds dL/dW, reading its"
        " entries and writing them, columns a part of dL/dW. TFLOP/s: of dL/dW. GB/s: of reading"
        " entries. The last columns say how many times as fast as LoRA a layer can be, the very"
        " last if training it cost nothing at all. Convolutions, attention and norms cost all"
        " methods the same, so a whole step gains less. In SDXL's wide layers the common products"
        " dominate: even training for nothing would not be twice as fast as a replayed LoRA.\n\n"
        + _table(head, rows)
    )


def memory(results: dict[str, Any]) -> str:
    """Return the estimates of memory beside what was measured."""
    rows = [
        [
            name,
            *(f"{row[key] / GB:.2f}" for key in ("estimated", "measured", "reserved")),
            f"{row['ratio'] - 1:+.1%}",
        ]
        for name, row in results["rows"].items()
    ]
    return (
        "## Memory of a training step: what `shira train --dry-run` estimates\n\n"
        "Estimated on the CPU from the shapes alone, measured on the GPU: GB, the most in torch's"
        " allocator; reserved is what the allocator took from the GPU for it.\n\n"
        f"With float32 states, LoRA keeps {THEIRS} bytes per parameter (value, gradient, AdamW's"
        f" two means), we {OURS}: also the entry's place and the base's own value, which undoing"
        " bit for bit needs. Where checkpointing leaves few activations, as for SDXL at rank 32"
        f" (85 million parameters, {85.1e6 * (OURS - THEIRS) / GB:.2f} GB more), this is most of"
        " the difference, and columns cannot save what is not kept. Where activations dominate,"
        " columns save inputs of Linear layers; weights, convolutions, norms and attention hold the"
        " rest of the peak.\n\n" + _table(["", "estimated", "measured", "reserved", "off"], rows)
    )


def runs(results: dict[str, Any]) -> str:
    """Return the real runs of the presets."""
    rows = []
    for preset, row in results["rows"].items():
        if "error" in row:
            rows.append([preset, row["error"], *[""] * 9])
            continue
        most, measuring = row["peak_bytes"], row.get("measuring_s")
        parts = ("opening", "measuring", "steps", "samples")
        peaks = [f"{most[part] / GB:.2f}" if most.get(part) else "" for part in parts]
        base = "yes" if "base" in row["verified"] else "no"
        undone = f"{row['changed']}, {'yes' if row['restored'] else 'NO'}"
        sizes = [f"{row['reserved'] / GB:.2f}", f"{row['estimate_gb']:.1f}"]
        times = [f"{measuring:.0f}" if measuring else "", f"{row['step_ms']:.0f}"]
        rows.append([preset, *times, *peaks, *sizes, base, undone])
    head = ["preset", "measuring s", "step ms", "GB opening", "measuring", "in steps", "drawing"]
    head += ["reserved", "estimated"]
    head += ["verified", "weights changed, restored"]
    return (
        f"## `shira train` with each preset, {results['device']}\n\n"
        "Full-size random checkpoints, pictures of several shapes, 12 steps; a step holds all"
        " batches that the preset accumulates. Estimated: what the dry run told before. Verified:"
        " `shira verify --base`. Changed, restored: by the diffusers helper. Reserved: what the"
        " allocator took of a GPU that had far more; where there is less, it gives back what it"
        " does not need. Measuring: the 50 batches before the steps that show the presets of styles"
        " which entries to train (mask moved).\n\n" + _table(head, rows)
    )


def kept(results: dict[str, Any]) -> str:
    """Return memory and time of a training step of a few layers, on the CPU."""
    floor = results["rows"]["frozen"]["kept_bytes"]
    rows = [
        [
            label,
            f"{row['parameters']:,}",
            f"{row['kept_bytes'] / 1e6:.1f}",
            f"{(row['kept_bytes'] - floor) / 1e6:.1f}",
            f"{row['peak_bytes'] / 1e6:.1f}",
            f"{row['step_ms']:.0f}",
        ]
        for method, label in LAYERS.items()
        for row in [results["rows"][method]]
    ]
    head = ["", "parameters", "kept MB", "above nothing trained", "peak MB", "step ms"]
    return (
        "## A training step of eight 1280 x 1280 Linear layers with GELU, 1024 tokens, float32\n\n"
        "Kept is what autograd holds from the forward to the backward pass, parameters left out;"
        " peak is the most that one forward and backward pass allocates. Rows and the diagonal need"
        " every input channel, as LoRA does; columns alone need only their own.\n\n"
        + _table(head, rows)
    )


def _measured(results: dict[str, Any]) -> Figures:
    return {name: row for name, row in results["rows"].items() if "error" not in row}


def _model(setting: str) -> str:
    return setting.split("-")[0]


def _named(setting: str) -> str:
    model, batch, *rest = setting.split("-")
    return f"{MODELS[model]}, batch {batch[1:]}{', checkpointing' if rest else ''}"


def _verdict(met: bool) -> str:
    return "met" if met else "**missed**"


def _table(head: list[str], rows: Rows, right: bool = True) -> str:
    rule = ["---"] + ["---:" if right else "---"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])
