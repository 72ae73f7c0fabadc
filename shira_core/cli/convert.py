"""`shira convert`: adapters of one kind as files of another."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..container import read_header
from ..errors import InvalidValue
from .choice import (
    add_choice,
    energy_json,
    energy_table,
    grouped,
    left_line,
    read_choice,
    read_dtype,
)
from .common import command, say, size
from .extract import show_progress

if TYPE_CHECKING:
    from ..adapter import Adapter
    from ..conversion.choice import Energy

KINDS = ("shira", "safetensors", "lora", "peft")
RANK = 64
_ABOUT = """Write an adapter, a LoRA or a folder of PEFT's SHiRA as a file of another kind; what
INPUT is, its content tells. The header is kept, and a line about the conversion is added to it."""
_EXAMPLES = """shira convert style.shira -o style-lora.safetensors --to lora --rank 64
  shira convert lora.safetensors -o style.shira --base model.safetensors --density 0.1
  shira convert style.shira -o smaller.shira --density 0.01
  shira convert style.shira -o style.safetensors
  shira convert style.shira -o style-peft --to peft"""


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = command(
        subparsers,
        "convert",
        "adapters, LoRAs and PEFT's SHiRA into each other; fewer entries, other names",
        _ABOUT,
        _EXAMPLES,
    )
    parser.add_argument("input", type=Path, metavar="INPUT", help=".shira file, LoRA, PEFT folder")
    parser.add_argument("-o", "--out", type=Path, required=True, help="file, or folder for peft")
    parser.add_argument(
        "--to",
        choices=KINDS,
        help="what to write (default: what the name of OUT says, .shira or .safetensors: the same "
        "adapter under either)",
    )
    parser.add_argument(
        "--base",
        type=Path,
        metavar="CKPT",
        help="checkpoint or diffusers folder that a LoRA or PEFT's SHiRA was made for, or whose "
        "names an adapter shall have",
    )
    add_choice(parser, adapters=True)
    parser.add_argument("--rank", type=int, help=f"of a LoRA that is written (default: {RANK})")
    parser.add_argument("--scale", type=float, help="strength of a LoRA that is read (default: 1)")
    parser.add_argument(
        "--partial", action="store_true", help="leave out what a LoRA or PEFT cannot hold"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read, change and write; say what was kept."""
    args.to = _target(args)
    source = _kind(args.input)
    _check(args, source)
    adapter, kept = _read(args, source)
    write = {"lora": _write_lora, "peft": _write_peft}.get(args.to, _write_adapter)
    _report(args, write(args, adapter, kept))
    return 0


@dataclass(frozen=True)
class _Done:
    """What was written, in how many numbers, and what it keeps where something was left."""

    files: list[Path]
    numbers: int
    energy: Energy | None


def _target(args: argparse.Namespace) -> str:
    """Return what is written; raises FileExists for what must stay."""
    from ..atomic import refuse_existing

    kind = args.to or {".shira": "shira", ".safetensors": "safetensors"}.get(args.out.suffix)
    if kind is None:
        raise InvalidValue(f"{args.out} does not tell its kind: add --to {', '.join(KINDS)}")
    paths = (args.out, args.input)
    if all(map(os.path.exists, paths)) and os.path.samefile(*paths):
        raise InvalidValue(f"{args.out} is the input: give -o another name")
    if kind == "peft":
        from ..conversion.peft_folder import refuse_existing as refuse_adapters

        refuse_adapters([args.out], args.overwrite)
    else:
        refuse_existing(args.out, args.overwrite)
    return str(kind)


def _kind(path: Path) -> str:
    """Return what the input is: "shira", "lora" or "peft"; raises FileInvalid."""
    from ..conversion.lora import is_lora
    from ..format import KEY

    if os.path.isdir(path):
        return "peft"
    container = read_header(path)
    if KEY in container.metadata:
        return "shira"
    return "lora" if is_lora(container.tensors) else "shira"


def _check(args: argparse.Namespace, source: str) -> None:
    """Raise InvalidValue for options that do not go together."""
    chosen = args.density is not None or args.energy is not None
    adapter, other = args.to in ("shira", "safetensors"), "convert it to a .shira file first"
    refused = {
        "a LoRA needs the model that it was made for: add --base CKPT": source == "lora"
        and args.base is None,
        f"{args.input} is a LoRA: {other}": source == "lora" and not adapter,
        f"--density and --energy make an adapter: {other}": chosen and not adapter,
        "--plot shows what was chosen: add --density or --energy": args.plot
        and not (chosen or source == "lora"),
        "--scale is for a LoRA that is read": source != "lora" and args.scale is not None,
        "--rank is for a LoRA that is written: add --to lora": args.to != "lora"
        and args.rank is not None,
        "--partial is for --to lora and --to peft": args.partial and adapter,
        "PEFT's SHiRA has float32 values: leave --dtype out": args.to == "peft" and args.dtype,
    }
    for reason, wrong in refused.items():
        if wrong:
            raise InvalidValue(reason)


def _read(args: argparse.Namespace, source: str) -> tuple[Adapter, Energy | None]:
    """Return the adapter that the input is or becomes, and what was kept where it was chosen."""
    from ..conversion.from_peft import from_peft
    from ..conversion.lora import from_lora
    from ..conversion.model import open_model
    from ..conversion.reduce import reduce
    from ..conversion.rename import rename
    from ..file import load

    progress = show_progress if sys.stderr.isatty() else None
    if source == "lora":
        scale = 1.0 if args.scale is None else args.scale
        args.dtype = args.dtype or "float16"
        return from_lora(args.input, args.base, read_choice(args), scale=scale, progress=progress)
    if source == "peft":
        adapter = from_peft(args.input, args.base)
    else:
        adapter = load(args.input)
        if args.base:
            adapter = rename(adapter, open_model(args.base).shapes, args.base.name)
    if args.density is None and args.energy is None:
        return adapter, None
    return reduce(adapter, read_choice(args))


def _write_adapter(args: argparse.Namespace, adapter: Adapter, kept: Energy | None) -> _Done:
    from ..conversion.provenance import converted

    dtype = read_dtype(args) if args.dtype else None
    if dtype and any(adapter.weights.read(n).values.dtype != dtype for n in adapter.weights):
        adapter = replace(adapter, header=converted(adapter.header, f"values as {args.dtype}"))
    adapter.save(args.out, overwrite=args.overwrite, dtype=dtype)
    return _Done([args.out], adapter.entries, kept)


def _write_lora(args: argparse.Namespace, adapter: Adapter, _: Energy | None) -> _Done:
    from ..conversion.to_lora import to_lora

    args.dtype = args.dtype or "float16"
    rank = RANK if args.rank is None else args.rank
    lora, energy = to_lora(adapter, rank, dtype=read_dtype(args), partial=args.partial)
    lora.save(args.out, overwrite=args.overwrite)
    return _Done([args.out], energy.total.entries, energy)


def _write_peft(args: argparse.Namespace, adapter: Adapter, _: Energy | None) -> _Done:
    from ..conversion.peft_folder import CONFIG, WEIGHTS, write
    from ..conversion.to_peft import to_peft

    folders, energy = to_peft(adapter, args.out, partial=args.partial)
    write(folders, overwrite=args.overwrite)
    numbers = sum(len(own.values) for shira in folders.values() for own in shira.modules.values())
    return _Done([f / n for f in folders for n in (CONFIG, WEIGHTS)], numbers, energy)


def _report(args: argparse.Namespace, done: _Done) -> None:
    """Draw the plot, and print a table or JSON."""
    if args.plot and done.energy:
        from .energy_plot import write_plot

        write_plot(done.energy, args.plot, args.overwrite)
    bulk = sum(path.stat().st_size for path in done.files)
    if args.json:
        facts = {"files": list(map(str, done.files)), "bytes": bulk, "numbers": done.numbers}
        say(json.dumps(facts | (energy_json(done.energy) if done.energy else {}), indent=2))
        return
    if done.energy:
        tables = {"lora": _lora_table, "peft": _left_lines}
        if text := tables.get(args.to, energy_table)(done.energy):
            say(text)
    say(f"wrote {args.out} ({size(bulk)}, {done.numbers:,} numbers)")


def _lora_table(energy: Energy) -> str:
    """Return what a LoRA has of each block and in total. error: ||delta - LoRA|| / ||delta||."""
    lines = [f"{'block':10}  {'numbers':>12}  {'of change':>9}  {'kept of it':>10}  {'error':>7}"]
    whole = energy.total.total
    for name, share in (*grouped(energy).items(), ("total", energy.total)):
        part = share.total / whole if whole else 0.0
        error = math.sqrt(max(0.0, 1 - share.share))
        lines.append(
            f"{name:10}  {share.entries:12,}  {part:9.2%}  {share.share:10.2%}  {error:7.2%}"
        )
    return "\n".join([*lines, _left_lines(energy)]).rstrip()


def _left_lines(energy: Energy) -> str:
    whole = energy.total.total
    return "\n".join(left_line(what, share, whole) for what, share in energy.left_out.items())
