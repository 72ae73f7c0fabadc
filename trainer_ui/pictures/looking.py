"""Look at many pictures: headers when they are asked for, pixels in a thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from ..engine.data import pictures
from ..engine.errors import DataInvalid
from .likeness import Looks, look

Size = tuple[int, int]


class Looking:
    """What is known of pictures, by their numbers; `done` of them have been looked at.

    sizes: of those whose headers have been read. damage: why others cannot be read.
    like: the number of the first picture that one looks like.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.sizes: dict[int, Size] = {}
        self.damage: dict[int, str] = {}
        self.like: dict[int, int] = {}
        self.done = 0
        self._paths, self._closing = tuple(paths), threading.Event()
        self._thread = threading.Thread(target=self._run, name="shira pictures", daemon=True)
        self._thread.start()

    def size(self, number: int) -> Size | None:
        """Return a picture's size, None when it cannot be read; its header is read once."""
        if number not in self.sizes and number not in self.damage:
            try:
                self.sizes[number] = pictures.header(self._paths[number]).size
            except DataInvalid as error:
                self.damage[number] = str(error)
        return self.sizes.get(number)

    def wait(self, seconds: float) -> bool:
        """Wait until all have been looked at; tell whether they have."""
        self._thread.join(seconds)
        return self.done == len(self._paths)

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        looks = Looks(len(self._paths))
        for number, path in enumerate(self._paths):
            if self._closing.is_set():
                return
            if self.size(number):
                try:
                    earlier = looks.add(number, look(path))
                except DataInvalid as error:  # behind a sound header
                    self.damage[number] = str(error)
                else:
                    if earlier is not None:
                        self.like[number] = earlier
            self.done = number + 1
