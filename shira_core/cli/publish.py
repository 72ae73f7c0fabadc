"""`shira publish`: build a folder for a model hub, and upload it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FileInvalid, InvalidValue
from .common import command, hub_token, quiet_bars, say, size

if TYPE_CHECKING:
    from ..integrations.hub import About, Bundle


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = command(
        subparsers,
        "publish",
        "build a folder for a model hub (card, pictures, checksums), and upload it",
        "Build a hub-ready folder of an adapter: the file, a card, pictures, notes that WebUIs "
        "read, and checksums. Absolute paths in the file's header and everything in pictures but "
        "the pixels stay behind. With --push it is uploaded as one commit; a folder that was "
        "built before can be given instead of the file.",
        "shira publish style.shira --out style-hub --licence apache-2.0 --pictures samples/\n"
        "  shira publish style-hub --push me/style",
    )
    parser.add_argument("source", type=Path, metavar="FILE|DIR", help="adapter, or built folder")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder (default: NAME-hub)")
    _add_about(parser)
    parser.add_argument("--twin", action="store_true", help="also a copy named .safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace a folder built before")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload to this repository")
    parser.add_argument("--private", action="store_true", help="a new repository is private")
    parser.add_argument("--token", metavar="VARIABLE", help="environment variable with a token")
    parser.add_argument("--dry-run", action="store_true", help="list what would be uploaded")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def _add_about(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--licence", "--license", default="", help="such as apache-2.0")
    parser.add_argument("--base-model", default="", metavar="OWNER/NAME", help="base on the hub")
    parser.add_argument("--author", default="", help="who made it")
    parser.add_argument("--description", default="", help="what it does")
    parser.add_argument("--tag", action="append", default=[], help="several times")
    parser.add_argument(
        "--pictures",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="pictures, or folders of them; NAME.txt beside one holds its prompt",
    )
    parser.add_argument("--prompt", action="append", default=[], help="of a picture, in order")


def run(args: argparse.Namespace) -> int:
    """Build, list or upload, and say what was done and how to go on."""
    from ..integrations import hub

    token = hub_token(args.token)
    if args.push:
        hub.check_repository(args.push)
    bundle = _bundle(args)
    files = {each.as_posix(): (bundle.folder / each).stat().st_size for each in bundle.files}
    address = ""
    if args.push and not args.dry_run:
        quiet_bars()
        address = _push(bundle, args, token)
    facts = {"folder": str(bundle.folder), "files": files, "left_out": list(bundle.left_out)}
    say(
        json.dumps(facts | {"url": address}, indent=2) if args.json else _told(args, facts, address)
    )
    return 0


def _bundle(args: argparse.Namespace) -> Bundle:
    """Build the folder, or take one that was built before."""
    from ..integrations import hub

    if args.source.is_dir() and hub.is_bundle(args.source):
        if args.out or args.twin or _about(args) != hub.About(repository=args.push or ""):
            raise InvalidValue(
                f"{args.source} is built already: give the adapter itself to build another folder"
            )
        return hub.Bundle(args.source, hub.contents(args.source))
    file = _only_adapter(args.source) if args.source.is_dir() else args.source
    out = args.out or Path(f"{file.stem}-hub")
    return hub.build(file, out, _about(args), twin=args.twin, overwrite=args.overwrite)


def _only_adapter(folder: Path) -> Path:
    found = sorted(folder.glob("*.shira"))
    if len(found) != 1:
        raise FileInvalid(f"{folder} holds {len(found)} .shira files: name the one to publish")
    return found[0]


def _about(args: argparse.Namespace) -> About:
    from ..integrations.hub import About

    return About(
        licence=args.licence,
        base_model=args.base_model,
        description=args.description,
        author=args.author,
        prompts=tuple(args.prompt),
        pictures=tuple(_pictures(args.pictures)),
        tags=tuple(args.tag),
        repository=args.push or "",
    )


def _pictures(paths: Iterable[Path]) -> Iterable[Path]:
    """Yield pictures, and those in folders, sorted by name."""
    from ..facts import PICTURES

    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = sorted(each for each in path.iterdir() if each.name.lower().endswith(PICTURES))
        if not found:
            raise InvalidValue(
                f"{path} holds no pictures: name a folder of PNG, JPEG or WebP files"
            )
        yield from found


def _push(bundle: Bundle, args: argparse.Namespace, token: str | None) -> str:
    from ..errors import HubError
    from ..integrations import hub

    try:
        return hub.push(bundle.folder, args.push, token=token, private=args.private)
    except HubError as error:
        again = f"shira publish {bundle.folder} --push {args.push}"
        raise HubError(f"{error}; the folder is built, go on with: {again}") from error


def _told(args: argparse.Namespace, facts: dict[str, Any], address: str) -> str:
    files: dict[str, int] = facts["files"]
    lines = [f"left out: {each}" for each in facts["left_out"]]
    if args.dry_run or not args.push:
        lines += [f"{size(count):>10}  {name}" for name, count in files.items()]
    total = f"{len(files)} files, {size(sum(files.values()))}"
    if address:
        lines.append(f"uploaded {total} to {address}")
    elif args.dry_run and args.push:
        lines.append(f"would upload {total} from {facts['folder']} to {args.push}")
    else:
        lines.append(f"built {facts['folder']} ({total}); upload it with --push OWNER/NAME")
    return "\n".join(lines)
