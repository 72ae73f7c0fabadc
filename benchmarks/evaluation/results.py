"""What `run.py` has written, as records with arrays."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fusion import SUM
from methods import Spec
from numpy.typing import NDArray
from plan import MIDDLE
from tasks import BASE_STYLES, BATCH_OF_PICTURES, CONTENTS, LEARNED_OBJECTS

Values = NDArray[np.float64]
Record = Mapping[str, Any]


def records(file: Path) -> list[dict[str, Any]]:
    """Return all results so far; a line that was cut off counts as none.

    Of what was measured again, as parts of fusions are whose adapters were not kept, the last.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        found[record["phase"], record["key"]] = record
    return list(found.values())


@dataclass(frozen=True)
class Single:
    """One adapter alone, on the test objects of its style.

    object, style, both: right or not, (objects,). distance: the mean. alphas: `both` of the first
    48 objects at other alphas.
    """

    method: str
    rank: int
    rate: float
    task: str
    object: Values
    style: Values
    both: Values
    distance: float
    alphas: dict[float, Values]


@dataclass(frozen=True)
class Fused:
    """One fusion. parts: task -> right in the fusion and right alone, each (pictures,).

    both: right when both parts are asked for in one prompt.
    """

    label: str
    method: str
    rank: int
    mode: str
    parts: dict[str, tuple[Values, Values]]
    both: Values
    interference: dict[str, float]

    @property
    def pair(self) -> bool:
        return len(self.parts) == 2 and not self.mixed

    @property
    def triple(self) -> bool:
        return len(self.parts) == 3

    @property
    def mixed(self) -> bool:
        return any(task in CONTENTS for task in self.parts)

    @property
    def retention(self) -> float:
        """Right in the fusion / right alone, over all parts."""
        together, alone = (np.sum(values) for values in zip(*self.parts.values(), strict=True))
        return float(together / max(alone, 1))

    def pairs(self, kind: str) -> list[tuple[Values, Values]]:
        """Return the parts that are styles, or new objects."""
        wanted = kind == "objects"
        return [part for task, part in self.parts.items() if (task in CONTENTS) == wanted]


def digits(text: str) -> Values:
    """Return "101" as numbers."""
    return np.array(list(text), dtype=np.float64)


def right(exam: Record) -> Values:
    """Return where object and style are right."""
    return digits(exam["object"]) * digits(exam["style"])


def singles(
    known: Iterable[Record], phases: Collection[str] = ("single", "limits")
) -> list[Single]:
    """Return the results of single adapters on styles, and of none."""
    return [
        _single(record)
        for record in known
        if record["phase"] in phases and record["spec"]["task"] not in CONTENTS
    ]


def _single(record: Record) -> Single:
    spec, exam = record["spec"], record["exam"]
    return Single(
        method=spec["method"],
        rank=spec["rank"],
        rate=spec["rate"],
        task=spec["task"],
        object=digits(exam["object"]),
        style=digits(exam["style"]),
        both=right(exam),
        distance=float(np.mean(exam["distance"])) / 1000,
        alphas={float(a): right(found) for a, found in record.get("alphas", {}).items()},
    )


def learned_objects(known: Iterable[Record]) -> dict[str, tuple[Values, Values]]:
    """Return how the new objects come out that adapters have learned, by method.

    Object right, and style right as well: shares of the drawings of each object, (adapters, 8).
    """
    exams: dict[str, list[Record]] = {}
    for record in known:
        spec = record.get("spec", {})
        if record["phase"] == "part" and spec["task"] in CONTENTS and not spec["shard"]:
            exams.setdefault(spec["method"], []).append(record["exam"])
    return {
        method: (
            _by_object(digits(exam["object"]) for exam in found),
            _by_object(right(exam) for exam in found),
        )
        for method, found in exams.items()
    }


def _by_object(exams: Iterable[Values]) -> Values:
    """Return the mean of each object's drawings, which `tasks.new_in` has ordered."""
    ordered = np.stack([each.reshape(-1, LEARNED_OBJECTS, len(BASE_STYLES)) for each in exams])
    return np.asarray(ordered.mean((1, 3)))


def fused(known: Iterable[Record], name: Callable[[str], str]) -> list[Fused]:
    """Return the results of fusions beside those of their parts alone."""
    known = list(known)
    alone = {
        record["key"]: right(record["exam"])[:BATCH_OF_PICTURES]
        for record in known
        if record["phase"] in ("single", "part")
    }
    return [_fused(record, alone, name) for record in known if record["phase"] == "fusion"]


def _fused(record: Record, alone: Mapping[str, Values], name: Callable[[str], str]) -> Fused:
    made, found = record["fusion"], record["found"]
    method, rank = made["parts"][0]["method"], made["parts"][0]["rank"]
    hows = (
        f"rank {rank}" if rank not in (0, MIDDLE) else "",
        "no common entry" if made["apart"] else "",
        made["mode"] if made["mode"] != SUM else "",
    )
    pictures = {
        part["task"]: (right(found[part["task"]]), alone[Spec(**part).key])
        for part in made["parts"]
    }
    return Fused(
        label=", ".join([name(method), *filter(None, hows)]),
        method=method,
        rank=rank,
        mode=made["mode"],
        parts=pictures,
        both=right(found["both"]) if "both" in found else np.zeros(0),
        interference=found.get("interference", {}),
    )
