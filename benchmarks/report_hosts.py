"""The sections of docs/benchmarks.md on hosts: what a person waits for beyond sampling."""

from __future__ import annotations

from typing import Any

Rows = list[list[str]]
ACTIONS = {
    "first": "first picture with an adapter",
    "same": "the same again, another seed",
    "alpha": "another alpha",
    "switch": "another file",
    "remove": "no adapter again",
}
GOALS = {"alpha": 0.4, "switch": 0.8}  # seconds


def comfyui_goals(results: dict[str, Any]) -> Rows:
    """Return the rows of the goals' table: label, goal, measured, met or not."""
    found = results["shira"]
    return [
        [
            f"ComfyUI: {ACTIONS[action]}, beyond sampling",
            f"<= {limit} s",
            f"{found[f'{action} beyond sampling']:.2f} s",
            "met" if found[f"{action} beyond sampling"] <= limit else "**missed**",
        ]
        for action, limit in GOALS.items()
    ]


def webui_goals(results: dict[str, Any]) -> Rows:
    """The same for AUTOMATIC1111."""
    found = results["times faster"]["shira"]
    return [
        [
            f"AUTOMATIC1111: {ACTIONS[action]}, against the built-in Lora",
            ">= 10x",
            f"{found[action]:.1f}x",
            "met" if found[action] >= 10 else "**missed**",
        ]
        for action in GOALS
    ]


def webui(results: dict[str, Any]) -> str:
    """Return the section on AUTOMATIC1111."""
    ways = ("shira", "shira beside lora", "lora")
    rows = [
        [label, *(f"{results[way][action]:.2f}" for way in ways)]
        for action, label in ACTIONS.items()
    ]
    shira, rank = f"SHiRA, {results['density']:.0%}", results["rank"]
    heads = f"{shira} | the same, beside a Lora | Lora, r = {rank}"
    lines = [f"| seconds for weights | {heads} |", "| --- | ---: | ---: | ---: |"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return (
        "## AUTOMATIC1111 1.10.1, full-size SD1.5, CPU, one thread\n\n"
        "A real server; the time that one picture spends on putting weights on and taking them"
        f" off, medians of {results['repeats']}. SHiRA gives the weights back after each picture,"
        " so that the same stack costs something again; Lora leaves its own in the model. Beside a"
        " Lora, its copies of the weights are written, too.\n\n" + "\n".join(lines)
    )


def comfyui(results: dict[str, Any]) -> str:
    """Return the section on ComfyUI."""
    shira, lora = results["shira"], results["lora"]
    rows = [
        [label, *(f"{each[f'{action} beyond sampling']:.2f}" for each in (shira, lora))]
        for action, label in ACTIONS.items()
    ]
    several = results["picture with n adapters, beyond the plain one"]
    counts = ", ".join(f"{count}: {seconds:+.2f} s" for count, seconds in several.items())
    methods = f"SHiRA, {results['density']:.0%} | LoRA, r = {results['rank']}"
    lines = [
        f"| seconds beyond sampling | {methods} |",
        "| --- | ---: | ---: |",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return (
        "## ComfyUI, full-size SD1.5, CPU, one thread\n\n"
        "A real server over HTTP; what a whole graph takes, less what the same graph takes without"
        f" an adapter ({shira['plain']:.1f} s), medians of {results['repeats']}. Figures below 0"
        " and the spread of a few tenths of a second are the machine's.\n\n"
        + "\n".join(lines)
        + f"\n\nA picture with several adapters at once, beyond the plain one: {counts}. While it"
        " samples, the model is an ordinary one: no layer, hook or wrapper is called in a step."
    )
