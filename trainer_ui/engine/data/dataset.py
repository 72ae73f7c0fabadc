"""The data set of a run: which pictures, in which bucket, with which prompts, how often.

Only headers are read here, so that ten thousand pictures take seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..config.data import DataSettings
from ..errors import DataInvalid
from . import buckets, captions, folder, pictures
from .buckets import Size
from .folder import Contents, Found


@dataclass(frozen=True)
class Example:
    """One picture as it is trained.

    name: its path below the folder. caption: its own text, None without one. prompts: the variants
    that it is trained with. size, bucket: width and height as it is seen, and as it is trained.
    repeats: how often it counts. mask: the file that shows what is learned (the picture itself for
    its alpha), None for all. is_class: it keeps what the base knows (DreamBooth, eq. 2).
    bytes: size of the file.
    """

    path: Path
    name: str
    caption: str | None
    prompts: tuple[str, ...]
    size: Size
    bucket: Size
    repeats: int = 1
    mask: Path | None = None
    is_class: bool = False
    bytes: int = 0


@dataclass(frozen=True)
class Skipped:
    """A picture that is not trained, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """All pictures of a run. notes: lines on what may not be as it was meant."""

    examples: tuple[Example, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    resolution: int

    @property
    def prompts(self) -> list[str]:
        """The different prompts of the pictures to learn, the first variant of each."""
        return list(dict.fromkeys(e.prompts[0] for e in self.examples if not e.is_class))


@dataclass(frozen=True)
class _Rules:
    """What decides how a picture is trained."""

    bucket: buckets.Rule
    masked: bool
    captions: captions.Rule
    seed: int


def scan(settings: DataSettings, resolution: int, step: int, seed: int = 0) -> Dataset:
    """Return the data set that the settings describe; pixels are not read.

    resolution: of the square bucket. step: pixels that sides are multiples of. seed: of the run.
    Raises DataInvalid when no picture can be trained, or none has a caption and there is no
    trigger; ConfigInvalid when no bucket fits.
    """
    rules = _rules(settings, resolution, step, seed)
    examples, skipped, notes = _read(settings.images, folder.find(settings.images), rules)
    _check_captions(examples, settings)
    if settings.class_images:
        found = _class_contents(settings.class_images, settings.class_prompt)
        unchanged = replace(rules, captions=captions.Rule(), masked=False)
        more, bad, lines = _read(settings.class_images, found, unchanged)
        examples += [replace(each, is_class=True) for each in more]
        skipped, notes = skipped + bad, notes + lines
    return Dataset(tuple(examples), tuple(skipped), tuple(notes), resolution)


def digest(dataset: Dataset) -> str:
    """Return a SHA-256 over all files, prompts and repeats: what a resumed run must find again."""
    total = hashlib.sha256()
    for each in dataset.examples:
        files = [each.path, each.mask] if each.mask else [each.path]
        for part in (
            *(file.read_bytes() for file in files),
            *(prompt.encode() for prompt in each.prompts),
            f"{each.repeats} {each.bucket} {each.is_class} {len(files)}".encode(),
        ):
            total.update(hashlib.sha256(part).digest())
    return total.hexdigest()


def summary(skipped: Iterable[Skipped], shown: int = 5) -> str:
    """Return how many pictures are skipped and the first of them with their reasons, on a line."""
    every = list(skipped)
    first = "; ".join(f"{each.name}: {each.reason}" for each in every[:shown])
    more = f"; and {len(every) - shown} more" if len(every) > shown else ""
    return f"{len(every)} pictures are skipped: {first}{more}"


def _rules(settings: DataSettings, resolution: int, step: int, seed: int) -> _Rules:
    return _Rules(
        bucket=buckets.rule(settings, resolution, step),
        masked=settings.masked_loss,
        captions=captions.Rule(
            settings.trigger,
            settings.shuffle_captions,
            settings.keep_tokens,
            settings.tag_dropout,
            settings.caption_variants,
        ),
        seed=seed,
    )


def _read(
    root: Path, contents: Contents, rules: _Rules
) -> tuple[list[Example], list[Skipped], list[str]]:
    """Read the headers of what was found; raises DataInvalid when no picture can be trained."""
    examples: list[Example] = []
    skipped: list[Skipped] = []
    for found in contents.found:
        name = found.path.relative_to(root).as_posix()
        try:
            examples.append(_example(found, name, rules))
        except DataInvalid as error:
            skipped.append(Skipped(name, str(error)))
    if not examples:
        raise DataInvalid(f"no picture of {root} can be trained: {summary(skipped)}")
    return examples, skipped, [*contents.notes, *_mask_notes(contents, examples, rules)]


def _example(found: Found, name: str, rules: _Rules) -> Example:
    """Return one picture as it is trained; raises DataInvalid with the reason to skip it."""
    try:
        count = found.path.stat().st_size
    except OSError as error:
        raise DataInvalid(f"cannot be read ({error.strerror})") from None
    header = pictures.header(found.path)
    own = found.path if header.alpha else None
    return Example(
        path=found.path,
        name=name,
        caption=found.caption,
        prompts=captions.variants(found.caption or "", rules.captions, rules.seed),
        size=header.size,
        bucket=buckets.fit(header.size, rules.bucket),
        repeats=found.repeats,
        mask=(found.mask or own) if rules.masked else None,
        bytes=count,
    )


def _check_captions(examples: list[Example], settings: DataSettings) -> None:
    if not settings.trigger and not any(example.caption for example in examples):
        raise DataInvalid(
            f"images: no picture of {settings.images} has a caption and there is no trigger: give "
            '--trigger "words that call it", or write a.txt beside a.png'
        )


def _mask_notes(contents: Contents, examples: list[Example], rules: _Rules) -> list[str]:
    masks = [found.mask for found in contents.found if found.mask]
    if masks and not rules.masked:
        return [f"{len(masks)} masks are not used, {masks[0].name} for one: turn masked_loss on"]
    bare = [example.name for example in examples if not example.mask]
    if rules.masked and bare:
        return [f"{len(bare)} of {len(examples)} pictures have no mask, {bare[0]} for one"]
    return []


def _class_contents(root: Path, prompt: str) -> Contents:
    """Return the class images, the class prompt where they have no text."""
    contents = folder.find(root, "class_images")
    bare = [found.path.name for found in contents.found if not found.caption]
    if bare and not prompt:
        raise DataInvalid(
            f"class_images: {bare[0]} has no caption: give --class-prompt, e.g. a photo of a dog"
        )
    found = (replace(each, caption=each.caption or prompt) for each in contents.found)
    return Contents(tuple(found), contents.notes)
