"""For the site: pages that lie elsewhere in the repository, links that leave `docs/`, and lists.

So one link works beside the file, as on a code host, and on the site; a file that a page links to
and that is not named here fails the strict build. And lists and tables may follow a line of text at
once, as code hosts read them.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "assets/adapters/*.md",
    "assets/adapters/*.png",
    "assets/base/LICENSE-*",
    "assets/base/*.md",
    "benchmarks/*.md",
    "benchmarks/reference/*.md",
    "benchmarks/reference/drawn.py",
    "benchmarks/reference/objects.json",
    "comfyui_nodes/web/docs/*.md",
    "workflows/*.jpg",
)
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")
CODE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
BLOCK = r"(?:[-*] |\d+\. |\|)"
TIGHT = re.compile(rf"^(?!\s|{BLOCK}).+\n(?={BLOCK})", re.MULTILINE)
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Add the files from outside, under their paths in the repository."""
    for path in sorted(each for pattern in OUTSIDE for each in ROOT.glob(pattern)):
        name = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between places of the repository into links between places of the site."""
    here = page.file.src_uri
    folder = posixpath.dirname(f"docs/{here}" if page.file.generated_by is None else here)

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[1]))
        return posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(here) or ".")

    return _spaced(LINK.sub(moved, FRONT_MATTER.sub("", markdown)))


def _spaced(markdown: str) -> str:
    """Put an empty line before each list and table; code stays as it is."""
    parts = CODE.split(markdown)
    parts[::2] = ["\n" + TIGHT.sub(r"\g<0>\n", text) for text in parts[::2]]
    return "".join(parts)
