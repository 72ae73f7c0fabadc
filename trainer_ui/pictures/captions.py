"""Where captions are written: beside the pictures, or in `metadata.jsonl`, as they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from shira_core.errors import InvalidValue

from ..engine.data.folder import KEYS, METADATA, TEXTS, on_one_line


def contents(folder: Path, captions: Mapping[str, str]) -> dict[str, bytes]:
    """Return the files, by their names below the folder, that hold new captions of pictures.

    captions: by the names of the pictures. Raises InvalidValue for what is no text.
    """
    texts = {name: clean(name, caption) for name, caption in captions.items()}
    listed = folder / METADATA
    written: dict[str, bytes] = {}
    if listed.is_file():
        lines, texts = _in_list(listed.read_text(encoding="utf-8-sig"), texts)
        written[METADATA] = lines.encode()
    return written | {_beside(folder, name): text.encode() for name, text in texts.items()}


def clean(name: str, caption: str) -> str:
    """Return a caption on one line, as it is read."""
    text = on_one_line(caption.replace("\0", " "))
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidValue(f"the caption of {name} is no valid text: type it anew") from None
    return text


def _beside(folder: Path, name: str) -> str:
    """Return the name of the text file of a picture: the one that is read, else a new one."""
    stem = Path(name).with_suffix("")
    kinds = [kind for kind in TEXTS if (folder / f"{stem}{kind}").is_file()]
    return f"{stem.as_posix()}{(kinds or TEXTS)[0]}"


def _in_list(text: str, captions: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Return the lines of a `metadata.jsonl` with new captions, and the captions it does not hold.

    Lines whose caption stays are not touched.
    """
    lines, left = [], dict(captions)
    for line in text.split("\n"):
        entry = json.loads(line) if line.strip() else {}
        name = Path(entry.get("file_name", "")).as_posix()
        key = next((key for key in KEYS if key in entry), "")
        if name in captions and entry.get(key) is not None:
            left.pop(name, None)
            if " ".join(entry[key].split()) != captions[name]:
                line = json.dumps({**entry, key: captions[name]}, ensure_ascii=False)
        lines.append(line)
    return "\n".join(lines), left
