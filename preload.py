"""WebUI entry: the command line flag of the extension, asked for before anything is imported."""

from __future__ import annotations

import argparse


def preload(parser: argparse.ArgumentParser) -> None:
    """Add --shira-dir; it may be given several times."""
    parser.add_argument(
        "--shira-dir",
        action="append",
        metavar="DIR",
        help="another folder of SHiRA adapters, beside models/shira",
    )
