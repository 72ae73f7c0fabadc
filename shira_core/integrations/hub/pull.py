"""Fetch an adapter from a hub, check it, and put it where programs look for it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path, PurePosixPath
from typing import Any

from ...atomic import atomic_write, explained
from ...errors import FileExists, FileInvalid, InvalidValue
from ...facts import PICTURES
from ...format import KEY
from ...library import SUFFIXES
from ...sound import check_bytes, digest
from . import client, names, notes, sums

NOTES = ".json"
LIMIT = 2 << 30  # bytes; an adapter of the largest open models is smaller
MAX_BESIDE = 20 << 20  # bytes of a picture or of notes
MAX_TWINS = 20  # safetensors files whose headers are read to find ours


@dataclass(frozen=True)
class Pulled:
    """What `pull` has done. adapter: its path. written: files that are new or replaced.

    kept: files beside it that were there and differ; they stay, a person may have edited them.
    """

    adapter: Path
    written: tuple[Path, ...]
    kept: tuple[Path, ...]


@dataclass(frozen=True)
class Remote:
    """A file of a repository. sha256, git_sha1: as the hub has them, or ""."""

    name: str
    size: int
    sha256: str
    git_sha1: str


class Repository:
    """One commit of a repository on a hub: its files, and their download."""

    def __init__(self, name: str, revision: str | None, token: str | None, endpoint: str | None):
        self._hub, self.name = client.library(), name
        self._api = self._hub.HfApi(endpoint=endpoint, token=token, library_name="shira")
        with client.asking(f"read {name}"):
            info = self._api.model_info(name, revision=revision, files_metadata=True, timeout=30)
        self._commit = info.sha
        self.files = {file.name: file for file in map(_remote, info.siblings or [])}

    def fetch(self, name: str, work: Path) -> Path:
        """Download a file below a workplace; the library resumes and retries. Return its path."""
        with client.asking(f"fetch {name} of {self.name}", work.parent):
            path = self._api.hf_hub_download(self.name, name, revision=self._commit, local_dir=work)
        return Path(path)

    def metadata(self, name: str) -> Mapping[str, str]:
        """Return the metadata of a safetensors file from its first bytes."""
        with client.asking(f"read {name} of {self.name}"):
            try:
                found = self._api.parse_safetensors_file_metadata(
                    self.name, name, revision=self._commit
                )
            except self._hub.errors.SafetensorsParsingError:
                return {}
        return found.metadata or {}


def pull(
    repository: str,
    folder: Path,
    *,
    revision: str | None = None,
    file: str | None = None,
    overwrite: bool = False,
    limit: int = LIMIT,
    token: str | None = None,
    endpoint: str | None = None,
) -> Pulled:
    """Fetch the adapter of "owner/name" with its pictures and notes into a folder, checked.

    file: which, where there are several. overwrite: replace files that differ. limit: bytes of
    the adapter. Hashes are compared with those of the hub and of SHA256SUMS, and every byte of the
    adapter is read before anything gets its name. Raises HubError, FileInvalid (hostile names,
    wrong hashes, damaged, no adapter, too large), FileExists, WriteFailed, InvalidValue and
    MissingDependency.
    """
    names.check_repository(repository)
    there = Repository(repository, revision, token, endpoint)
    chosen = _chosen(there, file)
    wanted = [*_beside(there, chosen), chosen]  # the adapter last: it is there when all is
    targets = {each.name: folder / names.local(each.name) for each in wanted}
    if chosen.size > limit:
        raise FileInvalid(
            f"{chosen.name} has {chosen.size / 1e9:.1f} GB, more than {limit / 1e9:.1f}: raise "
            "--limit if you want it"
        )
    with _workplace(folder) as work:
        listed = _listed(there, work)
        wanted = [each for each in wanted if not _is(targets[each.name], each)]
        if chosen in wanted and targets[chosen.name].exists() and not overwrite:
            raise FileExists(
                f"{targets[chosen.name]} exists and differs: add --overwrite to replace"
            )
        found = {each.name: _checked(there, each, listed, work) for each in wanted}
        if chosen.name in found:
            _check_adapter(found[chosen.name], chosen.name)
        placed = {targets[n]: _place(path, targets[n], overwrite) for n, path in found.items()}
    written, kept = (tuple(p for p, was in placed.items() if was is each) for each in (True, False))
    return Pulled(targets[chosen.name], written, kept)


def _remote(sibling: Any) -> Remote:
    lfs = sibling.lfs
    size = lfs.size if lfs else sibling.size
    return Remote(sibling.rfilename, size or 0, lfs.sha256 if lfs else "", sibling.blob_id or "")


def _chosen(there: Repository, file: str | None) -> Remote:
    """Return the adapter of a repository: the named one, or the only one."""
    ours = [each for name, each in there.files.items() if name.lower().endswith(SUFFIXES[0])]
    if file:
        everything = there.files.values()
        ours = [each for each in everything if file in (each.name, PurePosixPath(each.name).name)]
    found = ours or ([] if file else list(_twins(there)))
    if len(found) == 1 and found[0].name.lower().endswith(SUFFIXES):
        return found[0]
    if len(found) > 1:
        known = ", ".join(f"{each.name!r:.60}" for each in found[:9])
        raise InvalidValue(
            f"{there.name} holds {len(found)} adapters: name one with --file: {known}"
        )
    what = f"no adapter {file!r:.120}" if file else "no .shira file"
    raise FileInvalid(f"{there.name} holds {what}: check the name on its page")


def _twins(there: Repository) -> Iterator[Remote]:
    """Yield the safetensors files that say they are adapters of ours, small ones first."""
    files = [f for name, f in there.files.items() if name.lower().endswith(SUFFIXES[1])]
    for each in sorted(files, key=lambda file: file.size)[:MAX_TWINS]:
        if KEY in there.metadata(each.name):
            yield each


def _beside(there: Repository, chosen: Remote) -> Iterator[Remote]:
    """Yield the pictures and notes of an adapter."""
    stem = chosen.name[: -len(PurePosixPath(chosen.name).suffix)]
    for ending in (*PICTURES, NOTES):
        found = there.files.get(stem + ending)
        if found and found.size <= MAX_BESIDE:
            yield found


def _listed(there: Repository, work: Path) -> dict[str, str]:
    """Return the hashes of SHA256SUMS, {} where there is none."""
    found = there.files.get(sums.NAME)
    if found is None or found.size > MAX_BESIDE:
        return {}
    raw = there.fetch(found.name, work).read_bytes()
    return sums.parse(raw, f"{sums.NAME} of {there.name}")


def _is(path: Path, remote: Remote) -> bool:
    """Tell whether a file on this computer is a file of the hub, as far as its hash is known."""
    known = bool(remote.sha256 or remote.git_sha1)
    try:
        return known and path.is_file() and not _other(path, remote)
    except OSError:  # the disk refuses to read it
        return False


def _other(path: Path, remote: Remote) -> bool:
    """Tell whether a file has another hash than the hub names."""
    if remote.sha256:
        return digest(path) != remote.sha256
    if not remote.git_sha1 or remote.size > MAX_BESIDE:
        return False
    raw = path.read_bytes()
    return sha1(b"blob %d\0" % len(raw) + raw).hexdigest() != remote.git_sha1


def _checked(there: Repository, remote: Remote, listed: Mapping[str, str], work: Path) -> Path:
    """Fetch a file and compare its hash with what the hub and SHA256SUMS say."""
    path = there.fetch(remote.name, work)
    if _other(path, remote):
        raise FileInvalid(f"{remote.name} came with another hash than the hub's: pull again")
    if remote.name in listed and not sums.matches(path, listed[remote.name]):
        raise FileInvalid(
            f"{remote.name} has another hash than {sums.NAME} of {there.name} says: ask its author"
        )
    return path


def _check_adapter(path: Path, name: str) -> None:
    try:
        check_bytes(path)
    except FileInvalid as error:
        raise FileInvalid(str(error).replace(str(path), name)) from None


def _place(path: Path, target: Path, overwrite: bool) -> bool | None:
    """Give a fetched file its name; return False where another one stays, None for no change."""
    if target.suffix == NOTES:
        told = notes.known(path.read_bytes())
        if told is None:
            return None
        path.write_bytes(told)
    if sums.matches(target, digest(path)):
        return None
    if target.exists() and not overwrite:
        return False
    with atomic_write(target, overwrite) as temporary:
        os.replace(path, temporary)
    return True


@contextlib.contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder inside `folder`, which is made if needed; it goes in the end."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        work = tempfile.mkdtemp(prefix=".shira-pull-", dir=folder)
    except OSError as error:
        raise explained(error, folder) from error
    try:
        yield Path(work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
