"""The trainer's command line: one flag per setting, taken from the settings' own model.

`shira train FLAGS` and `python -m trainer_ui.engine run CONFIG [FLAGS]` are the same.
"""

from __future__ import annotations

import argparse
import os
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union

from pydantic.fields import FieldInfo

from shira_core.errors import ShiraError

from . import presets
from .config import SECTIONS, Config, load
from .display import clock, quiet

EXAMPLE = (
    "example: shira train --base model.safetensors --images pictures/ --out style.shira "
    '--trigger "my style" --mask struct --density 0.02 --steps 600'
)
INTERRUPTED = 130
# Read by libraries when they are imported, so set before torch is.
ENVIRONMENT = {
    # libgomp's threads spin for each other. Measured on two cores beside one busy program: no step
    # in 40 s without this, 0.96 s a step with it; alone 0.17 s either way.
    "GOMP_SPINCOUNT": "10000",
    # Everything is opened from folders and files; a library that asks its hub would only be slow.
    "HF_HUB_OFFLINE": "1",
}


def main(arguments: list[str] | None = None) -> int:
    """Run `run CONFIG [FLAGS]`; return the exit code."""
    parser = argparse.ArgumentParser("python -m trainer_ui.engine", description=__doc__)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="train as a TOML file says", epilog=EXAMPLE)
    run.add_argument("config", type=Path, help="TOML file of settings")
    _add_flags(run)
    return _ended(_train(vars(parser.parse_args(arguments))))


def train_command(arguments: list[str]) -> int:
    """Run `shira train`; return the exit code."""
    parser = argparse.ArgumentParser(
        "shira train",
        description="Train a SHiRA adapter on a folder of pictures.",
        epilog=EXAMPLE,
    )
    parser.add_argument("--config", type=Path, help="TOML file of settings; flags override it")
    _add_flags(parser)
    return _ended(_train(vars(parser.parse_args(arguments))))


def _train(given: dict[str, Any]) -> int:
    """Train with the flags that were given; one line on stderr and 1 for our errors."""
    path, name, act = (given.pop(key, None) for key in ("config", "preset", "act"))
    try:
        config = load(path, given, presets.read(name) if name else None)
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        quiet()
        _ACTS[act](config)
    except ShiraError as error:
        print(f"shira train: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "shira train: stopped at once: --resume goes on from the last checkpoint, if any",
            file=sys.stderr,
        )
        return INTERRUPTED
    except ImportError as error:
        print(f'shira train: {error}: pip install "shira[trainer]"', file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"shira train: {error}: check the path, its permissions and the free space",
            file=sys.stderr,
        )
        return 1
    return 0


def _run(config: Config) -> None:
    from . import dry_run
    from .loop import train

    dry_run.check(config)
    train(config)


def _plan(config: Config) -> None:
    from . import dry_run

    print(dry_run.look(config))


def _time(config: Config) -> None:
    from . import dry_run, timing

    dry_run.check(config)
    each = timing.seconds_per_step(config)
    print(f"{each:.3f} s a step, {clock(each * config.steps)} for {config.steps} steps")


_ACTS: dict[str | None, Callable[[Config], None]] = {None: _run, "dry_run": _plan, "time": _time}


def _ended(code: int) -> int:
    """Return the exit code; where several processes trained, end this one with it at once.

    Threads of their connections could abort an interpreter that ends in its own time.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_initialized():
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    return code


def _add_flags(parser: argparse.ArgumentParser) -> None:
    """Add one flag per setting. A flag that is not given leaves no trace, so files keep theirs."""
    parser.add_argument(
        "--preset", choices=presets.names(), help="settings that the file and the flags override"
    )
    acts = parser.add_mutually_exclusive_group()
    acts.add_argument(
        "--dry-run",
        action="store_const",
        dest="act",
        const="dry_run",
        help="train nothing: tell what is found, how big the file is and how much memory it needs",
    )
    acts.add_argument(
        "--time",
        action="store_const",
        dest="act",
        const="time",
        help="train a few steps on noise and keep nothing: tell how long a run takes here",
    )
    for section in SECTIONS:
        group = parser.add_argument_group(str(section.__doc__).rstrip("."))
        for name, field in section.model_fields.items():
            group.add_argument("--" + name.replace("_", "-"), dest=name, **_options(field))


def _options(field: FieldInfo) -> dict[str, Any]:
    """Return argparse's options for a setting."""
    kind: Any = _plain(field.annotation)
    options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": field.description}
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif typing.get_origin(kind) is tuple:
        options |= {"nargs": "+", "metavar": "TEXT"}
    elif typing.get_origin(kind) is Literal:
        options["choices"] = typing.get_args(kind)
    else:
        options["type"] = kind
        options["metavar"] = {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")
    if kind is not bool and field.default not in (None, "", ()) and not field.is_required():
        options["help"] = f"{field.description} (default: {field.default})"
    options["help"] = options["help"].replace("%", "%%")
    return options


def _plain(annotation: Any) -> Any:
    """Return T for `T | None`."""
    if typing.get_origin(annotation) in (Union, UnionType):
        return next(kind for kind in typing.get_args(annotation) if kind is not type(None))
    return annotation
