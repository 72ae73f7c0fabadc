"""What a data set looks like, told before anything is trained."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from . import buckets, captions
from .buckets import Size
from .dataset import Dataset, Example, Skipped, summary

SHOWN = 10


@dataclass(frozen=True)
class Report:
    """A data set in numbers and names.

    pictures, class_pictures: files to learn and to keep. per_epoch: views of the former with their
    repeats. bare: names of those without a text. prompts: number of different ones. masked: number
    with a mask. buckets and tags: with the pictures of each, the most frequent first. duplicates:
    names of files that hold the same bytes. enlarged: names of pictures that are smaller than their
    bucket. longest: the caption with the most words.
    """

    resolution: int
    pictures: int
    class_pictures: int
    per_epoch: int
    bare: tuple[str, ...]
    prompts: int
    masked: int
    buckets: tuple[tuple[Size, int], ...]
    tags: tuple[tuple[str, int], ...]
    duplicates: tuple[tuple[str, ...], ...]
    enlarged: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    longest: str

    @property
    def problems(self) -> tuple[str, ...]:
        """A line for each kind of problem, none when all is well."""
        lines = list(self.notes)
        if self.skipped:
            lines.append(summary(self.skipped))
        if 0 < len(self.bare) < self.pictures:
            lines.append(
                f"{len(self.bare)} of {self.pictures} pictures have no caption, "
                f"{self.bare[0]} for one"
            )
        if self.duplicates:
            same = _shown(self.duplicates[0], " = ")
            lines.append(f"{len(self.duplicates)} pictures are there more than once: {same}")
        if self.enlarged:
            lines.append(
                f"{len(self.enlarged)} pictures are smaller than their bucket and are enlarged, "
                f"{self.enlarged[0]} for one: lower the resolution or replace them"
            )
        return tuple(lines)

    def __str__(self) -> str:
        """Return the numbers and the problems as lines of text."""
        return "\n".join([self.numbers, *(f"{'problem':13} {line}" for line in self.problems)])

    @property
    def numbers(self) -> str:
        """The data set as lines of text, without its problems."""
        rows = [
            ("pictures", f"{self.pictures}, {self.per_epoch} per epoch with repeats"),
            ("class images", str(self.class_pictures) if self.class_pictures else ""),
            (
                "captions",
                f"{self.pictures - len(self.bare)} of {self.pictures}, {self.prompts} prompts",
            ),
            ("longest", self.longest),
            ("masks", str(self.masked) if self.masked else ""),
            ("tags", _shown(f"{tag} {count}" for tag, count in self.tags)),
            ("buckets", _shown(f"{w}x{h}: {count}" for (w, h), count in self.buckets)),
        ]
        return "\n".join(f"{name:13} {text}" for name, text in rows if text)


def report(dataset: Dataset) -> Report:
    """Look at a data set. Of the files, only those of equal length are read, for duplicates."""
    learned = [example for example in dataset.examples if not example.is_class]
    texts = [example.caption for example in learned if example.caption]
    tags = Counter(tag for text in texts for tag in captions.tags(text))
    sizes = Counter(example.bucket for example in dataset.examples)
    return Report(
        resolution=dataset.resolution,
        pictures=len(learned),
        class_pictures=len(dataset.examples) - len(learned),
        per_epoch=sum(example.repeats for example in learned),
        bare=tuple(example.name for example in learned if not example.caption),
        prompts=len({prompt for example in learned for prompt in example.prompts}),
        masked=sum(example.mask is not None for example in learned),
        buckets=tuple(sizes.most_common()),
        tags=tuple(tags.most_common()),
        duplicates=_duplicates(dataset.examples),
        enlarged=tuple(e.name for e in dataset.examples if buckets.scale(e.size, e.bucket) > 1),
        skipped=dataset.skipped,
        notes=dataset.notes,
        longest=max(texts, key=lambda text: len(text.split()), default=""),
    )


def _duplicates(examples: Sequence[Example]) -> tuple[tuple[str, ...], ...]:
    lengths = Counter(example.bytes for example in examples)
    same: dict[str, list[str]] = {}
    for example in examples:
        if lengths[example.bytes] > 1:
            key = hashlib.sha256(example.path.read_bytes()).hexdigest()
            same.setdefault(key, []).append(example.name)
    return tuple(tuple(names) for names in same.values() if len(names) > 1)


def _shown(texts: Iterable[str], between: str = ", ") -> str:
    every = list(texts)
    more = f", and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return between.join(every[:SHOWN]) + more
