"""The page of all commands, docs/commands.md, written from the parsers themselves.

python -m shira_core.cli.page > docs/commands.md
"""

from __future__ import annotations

import argparse
import re

from . import _parser

HEAD = """# Commands

`shira COMMAND`, or `python -m shira_core.cli COMMAND`. The exit code is 0, 1 after an error (one
line on stderr says what is wrong and what to do), 2 for a command line that is not understood, 130
after Ctrl-C. Written by `python -m shira_core.cli.page`."""
TRAIN = """Every [setting of the trainer](settings.md) is a flag. Besides them: `--config FILE.toml`
reads settings from a file, `--preset NAME` begins with a set of them, `--dry-run` trains nothing
and tells what would be, `--time` how long it would take here. [More](training.md)."""


def markdown() -> str:
    """Return the page."""
    commands = next(
        action for action in _parser([])._actions if isinstance(action, argparse._SubParsersAction)
    )
    helps = {each.dest: str(each.help) for each in commands._choices_actions}
    sections = [_section(name, helps[name], each) for name, each in commands.choices.items()]
    return "\n\n".join([HEAD, *sections]) + "\n"


def _section(name: str, summary: str, parser: argparse.ArgumentParser) -> str:
    parts = [f"## `shira {name}`"]
    if not parser.add_help:  # its flags belong to the trainer, which need not be installed
        return "\n\n".join([*parts, f"{summary.capitalize()}.", TRAIN])
    example = re.sub("^  ", "", str(parser.epilog).removeprefix("example:\n"), flags=re.MULTILINE)
    rows = [_row(action) for action in parser._actions if action.dest != "help"]
    table = ["| argument | what it is |", "|---|---|", *rows]
    return "\n\n".join([*parts, str(parser.description), f"```\n{example}\n```", "\n".join(table)])


def _row(action: argparse.Action) -> str:
    names = ", ".join(action.option_strings)
    choices = " or ".join(map(str, action.choices or ()))
    value = str(action.metavar or choices or (action.dest.upper() if names else action.dest))
    shown = [names, "" if action.nargs == 0 else value, "..." if action.nargs == "+" else ""]
    effect = str(action.help or "").replace("%%", "%")
    if names and action.required:
        effect += "; required"
    cells = " ".join(filter(None, shown)).replace("|", " or "), effect.replace("|", "\\|")
    return f"| `{cells[0]}` | {cells[1]} |"


if __name__ == "__main__":
    print(markdown(), end="")
