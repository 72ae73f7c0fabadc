"""The documentation: current where it is generated, no dead links, quotes that the code prints."""

import ast
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("mkdocs")

import yaml

from shira_core.cli import COMMANDS, page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
CODE = ("shira_core", "trainer_ui", "comfyui_nodes", "a1111_extension", "install.py")
PAGES = [*DOCS.rglob("*.md"), *ROOT.glob("*.md")]
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")
# Commands and settings: quoted, and no messages of ours.
COMMAND = re.compile(r"(?:shira|pip|apt|python) |\w+ = [\d\"]")


# ---- pages that are written by programs, and what pages say of programs ----
def test_the_page_of_commands_is_current():
    wanted = page.markdown()
    assert (DOCS / "commands.md").read_text("utf-8") == wanted, (
        "run: python -m shira_core.cli.page > docs/commands.md"
    )
    assert all(f"## `shira {name}`" in wanted for name in COMMANDS)


def test_examples_of_the_command_line_print_what_the_guide_shows(tmp_path):
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    guide = (DOCS / "quickstart" / "command-line.md").read_text("utf-8")
    (block,) = re.findall(r"```\n(\$ .*?)```", guide, re.DOTALL)
    for example in block.split("$ ")[1:]:
        line, _, wanted = example.partition("\n")
        command = [sys.executable, "-m", "shira_core.cli", *shlex.split(line)[1:]]
        printed = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True, env=environment()
        )
        assert printed.stdout == wanted


def test_messages_that_are_quoted_are_printed_by_the_code():
    text = (DOCS / "troubleshooting.md").read_text("utf-8")
    quoted = {
        span
        for span in re.findall(r"`([^`\n]+)`", text)
        if len(span.replace("...", "").split()) > 2 and not COMMAND.match(span)
    }
    assert len(quoted) > 50
    known = literals()
    assert [each for each in quoted if not any(map(pattern(each).search, known))] == []


def pattern(message):
    """What a message looks like in the code; "..." is anything."""
    parts = [re.escape(part.strip()) for part in message.split("...") if part.strip()]
    return re.compile(".*".join(parts), re.DOTALL)


def literals():
    """All texts of the code; what f-strings put in is a gap."""
    found = []
    for place in CODE:
        path = ROOT / place
        for file in path.rglob("*.py") if path.is_dir() else [path]:
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = [getattr(part, "value", "") for part in node.values]
                    found.append("".join(p if isinstance(p, str) else "\0" for p in parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, bytes | str):
                    value = node.value
                    found.append(value if isinstance(value, str) else value.decode("latin-1"))
    return found


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    version = re.search(r'^version = "(.+)"', project, re.MULTILINE)[1]
    assert citation["version"] == version
    assert re.search(r"^## (\S+)", changes, re.MULTILINE)[1] == version
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_between_files_work_without_the_site(path):
    for link in LINK.findall(path.read_text("utf-8")):
        assert (path.parent / unquote(link)).exists(), link


# ---- the site ----
class Page(HTMLParser):
    """What a page of the site links to and loads, and the places in it that can be linked to."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], {""}
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") != "canonical":
            self.loads.append(given["href"])
        elif "src" in given:
            self.loads.append(given["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site, by path; torch cannot be imported meanwhile."""
    folder = tmp_path_factory.mktemp("site")
    blocked = folder / "blocked"
    blocked.mkdir()
    (blocked / "torch.py").write_text("raise ImportError('the site needs no torch')")
    out = folder / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(out)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment(blocked)
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return {path: Page(path) for path in out.rglob("*.html")}


def environment(*paths):
    """Return this environment with the checkout, and before it `paths`, where Python looks."""
    search = os.pathsep.join(map(str, [*paths, ROOT]))
    return {**os.environ, "PYTHONPATH": search, "NO_MKDOCS_2_WARNING": "1"}


def test_the_site_builds_without_warnings_and_has_every_page(site):
    built = {path.as_posix() for path in site}
    for path in DOCS.rglob("*.md"):
        name = path.relative_to(DOCS).with_suffix(".html").as_posix()
        assert any(each.endswith(f"/site/{name}") for each in built), name


def test_links_of_the_site_lead_somewhere(site):
    for path, content in site.items():
        if path.name == "404.html":  # its links are those of the server's root
            continue
        for link in content.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path}: {link}"
            if target in site:
                assert unquote(parts.fragment) in site[target].anchors, f"{path}: {link}"


def test_lists_and_tables_are_no_lines_of_text(site):
    for path in site:
        html = re.sub(r"<pre>.*?</pre>", "", path.read_text("utf-8"), flags=re.DOTALL)
        for text in re.findall(r"<p>(.*?)</p>", html, re.DOTALL):
            assert not re.search(r"(?:^|\n)(?:- |\||\d+\. )", text), f"{path}: {text}"


def test_the_site_loads_nothing_from_elsewhere(site):
    for path, content in site.items():
        for link in content.loads:
            assert not urlsplit(link).netloc, f"{path}: {link}"


def test_the_reference_shows_arguments_and_errors(site):
    (path,) = [path for path in site if path.as_posix().endswith("/api/index.html")]
    shown = re.sub(r"<[^>]+>", "", path.read_text("utf-8"))
    assert {"shira_core.load", "shira_core.apply", "shira_core.Stack.remove"} <= site[path].anchors
    assert "target: a module, or tensors by checkpoint name" in shown
    assert "Raises WeightMissing" in shown
