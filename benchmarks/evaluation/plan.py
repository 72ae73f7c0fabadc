"""Which adapters each table needs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fusion import BALANCED, SUM, Fusion, combined, fusion
from methods import PAPER, TRIED, Spec
from tasks import CONTENTS, STYLES

RANKS = (1, 4, 16)
MIDDLE = 4  # the rank of fusions and of what else was tried
SEEDS = (0, 1, 2)
SEARCHED = {"riso": RANKS, "objects-a": (MIDDLE,), "contrast": (MIDDLE,)}  # for learning rates
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)  # "objects" one more
FULL_RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
ALPHAS = (0.25, 0.5, 0.75, 1.25, 1.5)
APART = ("struct", "wm", "grad")
MIXED = ("lora", "struct", "rand", "wm")
WIDE = ("lora-all", "rand-all", "wm-all", "grad-global-all", "moved-global")  # at all sizes, too
WIDE_MIXED = ("wm-all", "grad-global-all", "moved-global")  # and together
SMALL = (  # at the smallest size, too
    "moved",
    "moved-global",
    "signs-global",
    "agree",
    "agree-global",
    "agree-global-all",
    "agree-few-global",
)
# At the smallest size alone, at the rate of the method that they are compared with.
LIKE_SIGNS = ("shares-global", "signs-still", "signs-tenth", "signs-third", "signs-thrice")
SMALL_MIXED = ("lora", "wm", "moved-global", "signs-global", "agree-global")  # and together
MODES = (  # other ways to use adapters together, by method
    *(("wm", mode) for mode in ("ties", "mean")),
    *(("lora", mode) for mode in ("ties", "mean")),
    *((method, mode) for mode in (BALANCED, "alpha 0.7") for method in MIXED),
)
SHUFFLED = ("lora", "wm")
NONE, DRAWINGS = "none", "drawings"

Rates = Mapping[tuple[str, int, str], float]


@dataclass(frozen=True)
class Job:
    """One record of the results. `spec` or `fusion`; final: on the test objects."""

    phase: str
    spec: Spec | None = None
    fusion: Fusion | None = None

    @property
    def key(self) -> str:
        return (self.spec or self.fusion).key  # type: ignore[union-attr]


def kind(task: str) -> str:
    """Return what a learning rate is chosen for."""
    return "objects" if task in CONTENTS else "style"


def sizes(method: str) -> tuple[int, ...]:
    """Return the ranks of a method; a full fine-tune has none."""
    return (0,) if method == "full" else RANKS


def limits() -> list[Job]:
    """The floor and the ceiling of every score: no adapter; the drawings after the autoencoder."""
    tasks = (*STYLES, *CONTENTS)
    return [Job("limits", Spec(each, 0, 0, task, 0)) for each in (NONE, DRAWINGS) for task in tasks]


def search() -> list[Job]:
    """Every method and size with five learning rates, on validation pictures."""
    return [
        Job("search", Spec(method, rank, rate, task, 9))
        for task, ranks in SEARCHED.items()
        for method in ("full", *PAPER)
        for rank in (ranks if method != "full" else sizes(method))
        for rate in tried_rates(method, task)
    ]


def tried_rates(method: str, task: str) -> tuple[float, ...]:
    """Return the learning rates of a search; new objects need higher ones than styles."""
    rates = FULL_RATES if method == "full" else RATES
    return (*rates, round(rates[-2] * 10, 6)) if task in CONTENTS else rates


def tried() -> list[Job]:
    """What else was tried; learning rates chosen on validation pictures again."""
    wanted = [(method, MIDDLE, "riso", RATES[1:4]) for method in TRIED if method not in LIKE_SIGNS]
    wanted += [(method, rank, "riso", RATES[1:4]) for method in WIDE for rank in (1, 16)]
    wanted += [(method, 1, "riso", RATES[1:]) for method in SMALL]
    wanted += [(method, 1, "riso", RATES[3:4]) for method in LIKE_SIGNS]
    rates = tried_rates(WIDE_MIXED[0], CONTENTS[0])[2:]
    wanted += [(method, MIDDLE, CONTENTS[0], rates) for method in WIDE_MIXED]
    jobs = [
        Job("tried", Spec(method, rank, rate, task, 9))
        for method, rank, task, rates in wanted
        for rate in rates
    ]
    return list(dict.fromkeys(jobs))


def best_rates(records: Iterable[Mapping[str, Any]]) -> dict[tuple[str, int, str], float]:
    """Return the learning rate with the highest joint probability, by method, rank and kind."""
    found: dict[tuple[str, int, str], dict[float, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for record in records:
        if record["phase"] in ("search", "tried"):
            spec = record["spec"]
            where = (spec["method"], spec["rank"], kind(spec["task"]))
            found[where][spec["rate"]].append(record["exam"]["joint"])
    return {
        where: max(rates, key=lambda rate: sum(rates[rate]) / len(rates[rate]))
        for where, rates in found.items()
    }


def single(rates: Rates) -> list[Job]:
    """Every method, size, style and seed at its best learning rate, on test pictures."""
    jobs = [
        Job("single", Spec(method, rank, rates[method, rank, "style"], style, seed))
        for seed in SEEDS
        for method in ("full", *PAPER)
        for rank in sizes(method)
        for style in STYLES
    ]
    jobs += [
        Job("single", Spec(method, rank, rates[method, rank, "style"], style, seed))
        for seed in SEEDS
        for method in TRIED
        for rank in RANKS
        for style in STYLES
        if (method, rank, "style") in rates
    ]
    return jobs


def shuffled(rates: Rates) -> list[Job]:
    """Adapters whose pictures have each other's prompts: what is learned of the style alone."""
    return [
        Job("shuffled", Spec(method, 4, rates[method, 4, "style"], style, seed))
        for method in SHUFFLED
        for style in STYLES
        for seed in SEEDS
    ]


def fusions(rates: Rates) -> list[Job]:
    """Everything used together: all methods, masks apart, other ways to mix."""

    def jobs(
        method: str,
        rank: int,
        mode: str = SUM,
        apart: bool = False,
        tasks: Sequence[tuple[str, ...]] = combined(),
    ) -> list[Job]:
        def spec_of(task: str) -> Spec:
            return Spec(method, rank, rates[method, rank, kind(task)], task, 0)

        made = [fusion(each, spec_of, mode, apart) for each in tasks]
        return [
            Job("fusion", fusion=replace(f, parts=tuple(replace(p, seed=seed) for p in f.parts)))
            for f in made
            for seed in SEEDS
        ]

    found = jobs("full", 0)
    for method in PAPER:
        found += jobs(method, MIDDLE)
    for method in APART:
        found += jobs(method, MIDDLE, apart=True)
    for method, mode in MODES:
        found += jobs(method, MIDDLE, mode)
    for method in WIDE_MIXED:
        if (method, MIDDLE, "objects") in rates:
            found += [*jobs(method, MIDDLE), *jobs(method, MIDDLE, "alpha 0.7")]
    styles = [tasks for tasks in combined() if {*tasks} <= {*STYLES}]
    for method in SMALL_MIXED:
        if (method, 1, "style") in rates:
            found += jobs(method, 1, tasks=styles)
    return found


def parts(fusions: Iterable[Job], kept: Collection[str]) -> list[Job]:
    """Return the adapters that fusions are made of and that are not kept yet."""
    specs = {spec.key: spec for job in fusions for spec in job.fusion.parts}  # type: ignore[union-attr]
    return [Job("part", spec) for key, spec in specs.items() if key not in kept]
