"""The page's files agree with the nodes: help, words in four languages, workflows, scripts."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import hosts
import pytest
from PIL import Image

WEB = hosts.ROOT / "comfyui_nodes" / "web"
LOCALES = hosts.ROOT / "locales"
WORKFLOWS = sorted((hosts.ROOT / "workflows").glob("*.json"))
SCRIPTS = sorted(WEB.glob("*.js"))
LANGUAGES = ("en", "zh", "ja", "ko")
THUMBNAIL_BYTES = 60_000
STUBS = Path(__file__).parent / "stubs" / "comfyui_api_stubs"
CORE = {
    *("CheckpointLoaderSimple", "CLIPTextEncode", "EmptyLatentImage", "KSampler", "VAEDecode"),
    *("SaveImage", "PreviewImage", "StringConcatenate", "MarkdownNote"),
}
TELL = """
import json
from comfyui_nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

def told(name, node):
    inputs = [each for part in node.INPUT_TYPES().values() for each in part]
    title = NODE_DISPLAY_NAME_MAPPINGS[name]
    return {"title": title, "inputs": inputs, "outputs": list(node.RETURN_TYPES)}

print(json.dumps({name: told(name, node) for name, node in NODE_CLASS_MAPPINGS.items()}))
"""
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="Node.js is not installed")


def words(language: str, file: str) -> dict[str, Any]:
    text = (LOCALES / language / file).read_text("utf-8")
    read: dict[str, Any] = json.loads(text)
    return read


def paths(tree: Any, at: str = "") -> dict[str, str]:
    """Return every text of a tree by the path to it."""
    if not isinstance(tree, dict):
        return {at: tree}
    return {k: v for name, each in tree.items() for k, v in paths(each, f"{at}/{name}").items()}


# ---- words ----
@pytest.mark.parametrize("file", ["main.json", "nodeDefs.json"])
@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_every_language_says_the_same_things(language: str, file: str) -> None:
    english, other = paths(words("en", file)), paths(words(language, file))
    assert list(other) == list(english)
    assert all(text.strip() for text in other.values())
    for path, text in english.items():
        assert set(re.findall(r"{\w+}", other[path])) == set(re.findall(r"{\w+}", text)), path


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_translations_are_translated(language: str) -> None:
    english, other = paths(words("en", "nodeDefs.json")), paths(words(language, "nodeDefs.json"))
    sentences = [path for path, text in english.items() if " " in text]
    assert not [path for path in sentences if other[path].isascii()]


def test_the_scripts_say_exactly_the_words_that_there_are() -> None:
    source = "\n".join(script.read_text("utf-8") for script in SCRIPTS)
    said = set(re.findall(r'(?:say|named|numberField)\("(\w+)"', source))
    assert said == set(words("en", "main.json")["shira"])


# ---- scripts ----
def test_no_script_writes_html_or_asks_another_machine() -> None:
    for script in SCRIPTS:
        found = re.findall(
            r"innerHTML|outerHTML|insertAdjacent|\beval\b|https?:", script.read_text()
        )
        assert not found, script.name


@needs_node
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_modules_without_syntax_errors(script: Path) -> None:
    line = ["node", "--check", "--input-type=module"]
    done = subprocess.run(line, input=script.read_bytes(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def rows_script(expression: str) -> Any:
    """Return the value of an expression over the functions of rows.js."""
    module = base64.b64encode((WEB / "rows.js").read_bytes()).decode()
    code = f"import * as r from 'data:text/javascript;base64,{module}';"
    code += f"console.log(JSON.stringify({expression} ?? null))"
    line = ["node", "--input-type=module", "-e", code]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def row(name: str, alpha: float = 1, alpha_te: float = 1) -> dict[str, Any]:
    return {"on": True, "name": name, "alpha": alpha, "alpha_te": alpha_te, "blocks": ""}


A, B, C = row("a", 0.5, 0.5), row("b", 0.5, 0.2), row("c")
ROWS = json.dumps([A, B, C])


@needs_node
@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("r.parseRows('')", []),
        ("r.parseRows('[')", None),
        ("r.parseRows('[1]')", None),
        ("r.parseRows('[null]')", None),
        ("r.parseRows('[[]]')", None),
        ("r.parseRows('{}')", [row("{}")]),  # a file's name: the server finds none
        ("r.parseRows('[{}]')", None),
        ("r.parseRows('a:0.5\\n\\n c ')", [A, C]),
        ("r.parseRows('a: much')", None),
        ("r.parseRows('a:')", None),
        ('r.parseRows(\'[{"name": "a", "alpha": 0.5}]\')', [A]),
        ('r.parseRows(\'[{"name": "a", "alpha": 0.5, "alpha_te": null}]\')', [A]),
        ('r.parseRows(\'[{"name": "a", "later": 1}]\')', [row("a") | {"later": 1}]),
        (f"r.parseRows(r.rowsText({ROWS}))", [A, B, C]),
        (f"r.added({ROWS}, 'd')", [A, B, C, row("d")]),
        (f"r.without({ROWS}, 1)", [A, C]),
        (f"r.moved({ROWS}, 2, -1)", [A, C, B]),
        (f"r.moved({ROWS}, 0, 1)", [B, A, C]),
        (f"r.moved({ROWS}, 0, -1)", [A, B, C]),
        (f"r.moved({ROWS}, 2, 1)", [A, B, C]),
        (f"r.isDouble({ROWS}, 0)", False),
        (f"r.isDouble(r.added({ROWS}, 'a'), 0)", True),
        (f"r.isDouble(r.changed(r.added({ROWS}, 'a'), 3, {{on: false}}), 0)", False),
        (f"r.changed({ROWS}, 0, {{alpha: 2}})", [row("a", 2, 2), B, C]),
        (f"r.changed({ROWS}, 1, {{alpha: 2}})", [A, row("b", 2, 0.2), C]),
        (f"r.changed({ROWS}, 0, {{alpha_te: 2}})", [row("a", 0.5, 2), B, C]),
        (f"r.changed({ROWS}, 2, {{on: false}})", [A, B, C | {"on": False}]),
    ],
)
def test_rows_of_the_editor(expression: str, value: Any) -> None:
    assert rows_script(expression) == value


# ---- help, words and workflows against the nodes ----
def test_comfyui_finds_one_folder_of_workflows() -> None:
    """It looks into folders of these names and serves the files of the first alone."""
    names = ("example_workflows", "example", "examples", "workflow", "workflows")
    assert [name for name in names if (hosts.ROOT / name).exists()] == ["workflows"]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Names of each node's inputs, and types of its outputs, as the pack tells a host."""
    line = [sys.executable, "-c", TELL]
    places = {"PYTHONPATH": os.pathsep.join(map(str, (STUBS, hosts.ROOT)))}
    folder = tmp_path_factory.mktemp("host")
    environment = {**os.environ, **places}
    done = subprocess.run(line, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_every_node_input_and_output_has_words(nodes: dict[str, Any]) -> None:
    named = words("en", "nodeDefs.json")
    assert set(named) == set(nodes)
    for name, node in nodes.items():
        assert set(named[name]["inputs"]) == set(node["inputs"]), name
        assert list(named[name]["outputs"]) == [str(at) for at in range(len(node["outputs"]))]
        assert named[name]["display_name"] == node["title"]


def test_every_node_has_help_that_names_its_inputs(nodes: dict[str, Any]) -> None:
    assert {page.stem for page in WEB.glob("docs/*.md")} == set(nodes)
    for name, node in nodes.items():
        help_page = (WEB / "docs" / f"{name}.md").read_text("utf-8")
        assert help_page.startswith(f"# {node['title']}\n")
        cells = re.findall(r"^\| ([\w, ]+) \|", help_page, re.M)
        inputs = {each for cell in cells for each in cell.split(", ")} - {"input"}
        assert inputs == set(node["inputs"]), name


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_examples_use_nodes_and_inputs_that_there_are(
    nodes: dict[str, Any], workflow: Path
) -> None:
    graph = json.loads(workflow.read_text("utf-8"))
    ours = [node for node in graph["nodes"] if node["type"] in nodes]
    assert ours
    assert {node["type"] for node in graph["nodes"]} <= set(nodes) | CORE
    for node in ours:
        known = nodes[node["type"]]
        assert {each["name"] for each in node["inputs"]} <= set(known["inputs"])
        assert [each["type"] for each in node["outputs"]] == known["outputs"]
    by_id = {node["id"]: node for node in graph["nodes"]}
    for link, start, out, end, place, kind in graph["links"]:
        assert link in by_id[start]["outputs"][out]["links"]
        assert by_id[end]["inputs"][place]["link"] == link
        assert by_id[start]["outputs"][out]["type"] == kind


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_examples_have_thumbnails(workflow: Path) -> None:
    thumbnail = workflow.with_suffix(".jpg")
    assert thumbnail.stat().st_size < THUMBNAIL_BYTES
    with Image.open(thumbnail) as picture:
        assert picture.format == "JPEG"
        assert picture.width >= 256
