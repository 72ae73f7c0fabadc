"""Where drawings and names come from: packages, versions, authors and licences, in one table.

`SHIPPED` drawings are learned by the base and its adapters, so they decide what may be published.
`EVALUATION` drawings only measure, and are kept in a file of their own.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """One package: what is taken from it, whose work that is and under which licence (SPDX)."""

    package: str
    version: str
    author: str
    licence: str
    home: str
    use: str


NOTO = "https://github.com/googlefonts/noto-emoji"
FLUENT = "https://github.com/microsoft/fluentui-emoji"
TWEMOJI = "https://github.com/jdecked/twemoji"
OPENMOJI = "https://github.com/hfg-gmuend/openmoji"
LEARNED, MEASURED = "drawings that are learned and shipped", "drawings for evaluation only"
GOOGLE, MICROSOFT = "Google Inc", "Microsoft Corporation"

SHIPPED = {
    "noto": Source("@iconify-json/noto", "1.2.9", GOOGLE, "Apache-2.0", NOTO, LEARNED),
    "flat": Source("@iconify-json/fluent-emoji-flat", "1.2.6", MICROSOFT, "MIT", FLUENT, LEARNED),
    "glossy": Source("@iconify-json/fluent-emoji", "1.2.7", MICROSOFT, "MIT", FLUENT, LEARNED),
    "contrast": Source(
        "@iconify-json/fluent-emoji-high-contrast", "1.2.6", MICROSOFT, "MIT", FLUENT, LEARNED
    ),
}
EVALUATION = {
    "twemoji": Source("@iconify-json/twemoji", "1.2.5", "Twitter", "CC-BY-4.0", TWEMOJI, MEASURED),
    "openmoji": Source(
        "@iconify-json/openmoji", "1.2.29", "OpenMoji", "CC-BY-SA-4.0", OPENMOJI, MEASURED
    ),
}
NAMES = Source(
    "unicode-emoji-json",
    "0.9.0",
    "Mu-An Chiou",
    "MIT",
    "https://github.com/muan/unicode-emoji-json",
    "names of objects",
)
PACKAGES = {**SHIPPED, **EVALUATION, "names": NAMES}


def check_source(source: Source, package: Path) -> None:
    """Compare the table's row with what an unpacked package says of itself.

    Raises ValueError if version, licence or author differ.
    """
    about = json.loads((package / "package.json").read_text(encoding="utf-8"))
    found = {
        "version": about["version"],
        "licence": about["license"],
        "author": about.get("author"),
    }
    if (package / "info.json").exists():
        info = json.loads((package / "info.json").read_text(encoding="utf-8"))
        found["author"] = info["author"]["name"]
        found["licence"] = info["license"]["spdx"]
    for fact, value in found.items():
        if value != getattr(source, fact):
            raise ValueError(
                f"{source.package}: {fact} is {value!r} in {package} and "
                f"{getattr(source, fact)!r} in sources.py: check which one is right"
            )


def write_licences(file: Path) -> None:
    """Write the table as JSON."""
    table = {short: asdict(source) for short, source in PACKAGES.items()}
    file.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
