"""A folder of pictures with captions, as a page shows and edits it."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from shira_core.errors import InvalidValue, ShiraError

from ..engine.data import captions as tagging
from ..engine.data import folder as files
from ..engine.data.buckets import Rule
from ..engine.errors import DataInvalid
from . import captions, edit, sizes
from .captioners import Captioner
from .edit import Edit, Progress
from .item import Item, Statistics
from .looking import Looking, Size


class Folder:
    """The pictures of a folder, found as the trainer finds them (docs/training.md).

    It is listed at once; the pictures are looked at by a thread, in the order of their names.
    rule: of the sizes that pictures are trained in; may be set. allowed: raises for a path that
    must not be touched: pictures there are left out. most: only so many pictures, the first ones:
    they are there at once, however many the folder has.
    Raises DataInvalid when there are no pictures.
    """

    def __init__(
        self,
        path: Path,
        rule: Rule = sizes.USUAL,
        allowed: Callable[[Path], object] = lambda path: None,
        most: int | None = None,
    ) -> None:
        self.path, self.rule, self._allowed, self._most = Path(path), rule, allowed, most
        self._lock, self._version = threading.RLock(), 0
        self._list()
        self._looking = self._look()

    def __len__(self) -> int:
        return len(self._found)

    @property
    def stamp(self) -> tuple[int, int, Rule]:
        """What changes whenever something that is told of the folder does."""
        return self._version, self._looking.done, self.rule

    def again(self) -> None:
        """List the folder again, for what other programs changed; raises DataInvalid."""
        with self._lock:
            before = self._names
            self._list()
            if self._names != before:
                self._looking.close()
                self._looking = self._look()

    def items(self, page: int, size: int = 50, problem: str = "") -> tuple[Item, ...]:
        """Return the pictures of a page, 0 for the first.

        problem: only pictures with one of this kind, of those that have been looked at.
        """
        start = page * size
        if not problem:
            return tuple(self._item(n) for n in range(len(self))[start : start + size])
        numbers = [n for n in range(len(self)) if problem in _kinds(self._problems(n))]
        return tuple(self._item(n) for n in numbers[start : start + size])

    def write(self, name: str, caption: str) -> Item:
        """Write the caption of a picture; raises InvalidValue, WriteFailed, DataInvalid."""
        with self._lock:
            number = self._number(name)
            after = captions.contents(self.path, {name: caption})
            edit.write_all(self.path, after, edit.held(self.path, after))
            found = self._found[number]
            self._found[number] = replace(found, caption=captions.clean(name, caption))
            self._unreadable.pop(_stem(found.path), None)
            self._version += 1
            return self._item(number)

    def prepend(self, words: str) -> Edit:
        """Return the edit that puts words, a trigger, before every caption that lacks them."""
        clean = " ".join(words.split())
        about = f"put {clean!r} before every caption that lacks it"
        return edit.edit(about, self._editable(), lambda text: tagging.join(clean, text or ""))

    def replace(self, old: str, new: str) -> Edit:
        """Return the edit that puts `new` in the place of `old`, wherever it is in a caption."""
        about = f"put {new!r} in the place of {old!r}"
        return edit.edit(about, self._editable(), edit.replaced(old, new))

    def captioned(self, captioner: Captioner, progress: Progress = edit.silent) -> Edit:
        """Return the edit that gives pictures without a caption one by a program.

        progress: called with the pictures done and in all. What fails is left out, and the first
        reason told; raises InvalidValue where all do.
        """
        bare = {name: text for name, text in self._editable().items() if not text}
        bare = {name: text for name, text in bare.items() if self._looking.size(self._number(name))}
        changes, failed = [], []
        for done, (name, before) in enumerate(bare.items(), 1):
            try:
                text = captions.clean(name, captioner(self.path / name))
            except InvalidValue as error:  # hours of work on others must not be lost
                failed.append(str(error))
                continue
            finally:
                progress(done, len(bare))
            if text:
                changes.append(edit.Change(name, before, text))
        if failed and not changes:
            raise InvalidValue(failed[0])
        about = "caption the pictures that have none"
        return Edit("; ".join([about, *failed[:1]]), tuple(changes))

    def apply(self, wanted: Edit, progress: Progress = edit.silent) -> int:
        """Make an edit; return how many captions were changed.

        Captions that have changed since it was made stay. Its undo is kept in the folder first.
        progress: called with the files done and in all; 10,000 take seconds.
        Raises WriteFailed.
        """
        with self._lock:
            self._list_captions()
            now = self._editable()
            changes = {c.name: c.after for c in wanted.changes if now.get(c.name, ()) == c.before}
            if not changes:
                return 0
            after = captions.contents(self.path, changes)
            kept = edit.Journal(edit.held(self.path, after), after)
            kept.write(self.path)
            edit.write_all(self.path, kept.after, kept.before, progress)
            self._list_captions()
            return len(changes)

    @property
    def undoable(self) -> bool:
        """Whether there is an edit to take back."""
        return (self.path / edit.JOURNAL).is_file()

    def undo(self, progress: Progress = edit.silent) -> int:
        """Take the last edit back, also after a restart; return how many files were restored.

        Files that have changed since stay. progress: as in `apply`.
        Raises WriteFailed, FileInvalid.
        """
        with self._lock:
            kept = edit.journal(self.path)
            if kept is None:
                return 0
            written = edit.write_all(self.path, kept.before, kept.after, progress)
            edit.forget(self.path)
            self._list_captions()
            return len(written)

    def tags(self) -> list[tuple[str, int]]:
        """Return all tags with the number of captions, the most frequent first."""
        return Counter(tag for text in self._texts() for tag in tagging.tags(text)).most_common()

    def buckets(self) -> dict[Size | None, int]:
        """Return in which sizes the pictures that were looked at would be trained, and how many.

        None: not at all, since they are too small.
        """
        known = list(self._looking.sizes.values())
        return dict(Counter(sizes.bucket(size, self.rule) for size in known).most_common())

    def statistics(self) -> Statistics:
        """Return the folder in numbers, as far as it has been looked at."""
        texts = self._texts()
        kinds = Counter(kind for n in range(len(self)) for kind in _kinds(self._problems(n)))
        return Statistics(
            pictures=len(self),
            looked=self._looking.done,
            per_epoch=sum(found.repeats for found in self._found),
            captioned=len(texts),
            prompts=len(set(texts)),
            tags=len(self.tags()),
            longest=max(texts, key=lambda text: len(text.split()), default=""),
            problems=dict(kinds),
            notes=self._notes,
        )

    def wait(self, seconds: float) -> bool:
        """Wait until all pictures have been looked at; tell whether they have."""
        return self._looking.wait(seconds)

    def close(self) -> None:
        """End the thread."""
        self._looking.close()

    def _list(self) -> None:
        """List the pictures, without those that must not be touched."""
        allow = self._by_folders()
        contents, self._unreadable = self._find(allow)
        self._found = [found for found in contents.found if _may(allow, found.path)]
        out = len(contents.found) - len(self._found)
        self._names = [found.path.relative_to(self.path).as_posix() for found in self._found]
        self._numbers = {name: number for number, name in enumerate(self._names)}
        more = [f"{out} pictures are links out of the allowed folders"] if out else []
        self._notes = (*contents.notes, *more)
        self._version += 1

    def _look(self) -> Looking:
        return Looking([found.path for found in self._found])

    def _list_captions(self) -> None:
        """Read the captions again; pictures that have come or gone wait for `again`."""
        contents, self._unreadable = self._find(self._by_folders())
        known = {found.path: found for found in contents.found}
        self._found = [known.get(found.path, found) for found in self._found]
        self._version += 1

    def _by_folders(self) -> Callable[[Path], None]:
        """Return `allowed` for many files: it is asked for their folders once, and for links."""
        links: dict[Path, set[str]] = {}

        def allow(path: Path) -> None:
            if path.parent not in links:
                self._allowed(path.parent)
                links[path.parent] = _links(path.parent)
            if path.name in links[path.parent]:
                self._allowed(path)

        return allow

    def _find(self, allow: Callable[[Path], None]) -> tuple[files.Contents, dict[Path, str]]:
        """Return what is found, and the reasons of captions that cannot be read, by stem."""
        unreadable: dict[Path, str] = {}

        def read(path: Path) -> str:
            try:
                allow(path)
                return files.read(path)
            except ShiraError as error:
                unreadable[_stem(path)] = str(error)
                return ""

        if self._most is None:
            return files.find(self.path, text=read), unreadable
        return files.Contents(files.first(self.path, self._most, read), ()), unreadable

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            raise DataInvalid(f"{name!r:.120} is no picture of {self.path}: look at it again")
        return self._numbers[name]

    def _texts(self) -> list[str]:
        return [found.caption for found in self._found if found.caption]

    def _editable(self) -> dict[str, str | None]:
        """Return the captions by name, without those that a bulk edit would destroy."""
        pairs = zip(self._names, self._found, strict=True)
        return {
            name: found.caption
            for name, found in pairs
            if _stem(found.path) not in self._unreadable
        }

    def _item(self, number: int) -> Item:
        found = self._found[number]
        return Item(
            name=self._names[number],
            path=found.path,
            caption=found.caption,
            size=self._looking.size(number),
            problems=tuple(self._problems(number)),
        )

    def _problems(self, number: int) -> Iterator[str]:
        """Yield what is wrong with a picture, as far as it has been looked at."""
        found, known = self._found[number], self._looking
        if number in known.damage:
            yield f"unreadable: {known.damage[number]}"
        if size := known.sizes.get(number):
            yield from sizes.problems(size, self.rule)
        if number in known.like:
            yield f"duplicate: looks like {self._names[known.like[number]]}"
        if reason := self._unreadable.get(_stem(found.path)):
            yield f"caption unreadable: {reason}"
        elif not found.caption:
            yield "no caption"


def _links(folder: Path) -> set[str]:
    """Return the names in a folder that are links, from its listing: each file costs time."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_symlink()}
    except OSError:  # nothing in it can be opened
        return set()


def _may(allow: Callable[[Path], None], path: Path) -> bool:
    try:
        allow(path)
    except ShiraError:
        return False
    return True


def _kinds(problems: Iterator[str]) -> list[str]:
    return [line.partition(":")[0] for line in problems]


def _stem(path: Path) -> Path:
    """Return what a picture and its caption have in common."""
    return path.with_suffix("")
