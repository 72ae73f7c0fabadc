"""What the language model reads: text of a small world, and three tasks that the text lacks.

All of it is drawn from seeds, so that every machine reads the same. Characters are the tokens; a
line is an item, and its end is a character, too.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

CHARACTERS = "\n" + string.ascii_lowercase + string.digits + " +=:"
IGNORED = -100  # no loss on this character
SIZES = ("tiny", "small", "medium", "large", "huge")
THINGS = {  # kind: things by size
    "animal": ("ant bee fly flea", "frog mouse crab rat", "cat dog fox goose",
               "horse cow bear deer", "whale orca rhino hippo"),
    "food": ("pea rice bean salt", "egg plum lemon fig", "melon loaf cake ham", "", ""),
    "tool": ("pin nail tack clip", "pen fork knife key", "drill spade axe saw", "plow cart",
             "crane"),
    "place": ("", "", "hut tent", "house barn shop", "fort isle woods ocean city"),
}  # fmt: skip
FACTS = {
    thing: (kind, size)
    for kind, groups in THINGS.items()
    for size, group in enumerate(groups)
    for thing in group.split()
}
NAMES = tuple(FACTS)


@dataclass(frozen=True)
class Example:
    """One line of a task: what is given, and what has to be said exactly."""

    prompt: str
    answer: str


def letters(draw: random.Random, low: int, high: int) -> str:
    """Return a word of random letters."""
    return "".join(draw.choices(string.ascii_lowercase, k=draw.randint(low, high)))


def line(draw: random.Random) -> str:
    """Return one line of the base's text: facts, sums, copies, ends of words, the alphabet."""
    thing = draw.choice(NAMES)
    kind, size = FACTS[thing]
    word, a, b = letters(draw, 3, 5), draw.randrange(100), draw.randrange(100)
    character = draw.choice(string.ascii_lowercase + string.digits)
    return draw.choice(
        (
            f"a {thing} is {SIZES[size]}",
            f"a {thing} is a {SIZES[size]} {kind}",
            f"a {thing} is {SIZES[size]}",
            f"{a:02}+{b:02}={a + b:03}",
            f"{a % 10}+{b % 10}={a % 10 + b % 10:02}",
            f"copy {word}:{word}",
            f"copy {thing}:{thing}",
            f"ends {word}:{word[0]}{word[-1]}",
            f"last {word}:{word[-2:]}",
            f"next {character}:{successor(character)}",
        )
    )


def shift(draw: random.Random) -> Example:
    """Replace each letter and digit by the next one, the last by the first: ay39z:bz40a."""
    word = "".join(draw.choices(string.ascii_lowercase + string.digits, k=draw.randint(4, 5)))
    return Example(f"shift {word}:", "".join(map(successor, word)))


def successor(character: str) -> str:
    """Return the next letter or digit; the first after the last."""
    row = string.digits if character.isdigit() else string.ascii_lowercase
    return row[(row.index(character) + 1) % len(row)]


def flip(draw: random.Random) -> Example:
    """Say a word backwards."""
    word = letters(draw, 4, 5)
    return Example(f"flip {word}:", word[::-1])


def big(draw: random.Random) -> Example:
    """Name the largest of three things, whose sizes the base's text tells."""
    while True:
        things = draw.sample(NAMES, 3)
        sizes = [FACTS[thing][1] for thing in things]
        if sizes.count(max(sizes)) == 1:
            return Example(f"big {' '.join(things)}:", things[sizes.index(max(sizes))])


TASKS: dict[str, Callable[[random.Random], Example]] = {
    "shift": shift,
    "flip": flip,
    "big": big,
}
PARTS = {"train": 4000, "validation": 400, "test": 600}


def split(task: str) -> dict[str, list[Example]]:
    """Return a task's examples by part; no prompt is in two parts."""
    draw, found = random.Random(f"task {task}"), dict[str, Example]()
    while len(found) < sum(PARTS.values()):
        example = TASKS[task](draw)
        found.setdefault(example.prompt, example)
    rest = iter(found.values())
    return {part: [next(rest) for _ in range(count)] for part, count in PARTS.items()}


def lines(seed: str, count: int) -> list[Example]:
    """Return lines of the base's text, all of which has to be said."""
    draw = random.Random(seed)
    return [Example("", line(draw)) for _ in range(count)]


def rows(seed: str, count: int, length: int) -> Tensor:
    """Return lines of the base's text as int64 (count, length); each row begins a line."""
    draw, made = random.Random(seed), []
    for _ in range(count):
        row = "\n"
        while len(row) < length:
            row += line(draw) + "\n"
        made.append(encoded(row[:length]))
    return torch.tensor(made)


def batch(examples: list[Example]) -> tuple[Tensor, Tensor]:
    """Return inputs and wanted next characters, int64 (examples, longest).

    Only those of answers and their line's end are wanted; elsewhere IGNORED.
    """
    pairs = [("\n" + each.prompt, each.answer + "\n") for each in examples]
    length = max(len(prompt) + len(answer) for prompt, answer in pairs) - 1
    inputs = torch.zeros(len(pairs), length, dtype=torch.int64)
    wanted = torch.full_like(inputs, IGNORED)
    for row, (prompt, answer) in enumerate(pairs):
        whole = torch.tensor(encoded(prompt + answer))
        inputs[row, : len(whole) - 1] = whole[:-1]
        wanted[row, len(prompt) - 1 : len(whole) - 1] = whole[len(prompt) :]
    return inputs, wanted


def encoded(text: str) -> list[int]:
    """Return the number of each character."""
    return [CHARACTERS.index(character) for character in text]
