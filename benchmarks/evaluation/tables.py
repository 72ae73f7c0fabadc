"""The tables of `docs/evaluation.md`, made from results."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from estimates import grouped, mean_of, percent, spearman, whole
from numpy.typing import NDArray
from plan import DRAWINGS, MIDDLE, NONE, Rates
from results import Fused, Record, Single, Values, learned_objects
from tasks import STYLES

NAMES = {
    NONE: "no adapter",
    DRAWINGS: "true drawings, after the autoencoder",
    "full": "full fine-tune",
    "lora": "LoRA",
    "dora": "DoRA",
    "struct": "SHiRA-Struct",
    "rand": "SHiRA-Rand",
    "wm": "SHiRA-WM",
    "grad": "SHiRA-Grad",
    "snip": "SHiRA-SNIP",
    "wm-dora": "SHiRA-WM-DoRA",
    "rslora": "LoRA, rank-stabilised",
    "lora-all": "LoRA, all layers",
    "rand-all": "SHiRA-Rand, all layers",
    "wm-all": "SHiRA-WM, all layers",
    "grad-all": "SHiRA-Grad, all layers",
    "grad-many": "SHiRA-Grad, 64 batches",
    "reselected": "SHiRA-Grad, chosen again",
    "grad-global": "gradient, pooled",
    "grad-global-all": "gradient, pooled, all layers",
    "snip-global-all": "SNIP, pooled, all layers",
    "agree": "agreement, each layer",
    "agree-global": "agreement, pooled",
    "agree-global-all": "agreement, pooled, all layers",
    "agree-few-global": "agreement of 8 batches, pooled",
    "moved": "movement, each layer",
    "moved-global": "movement, pooled",
    "moved-global-all": "movement, pooled, all layers",
    "signs-global": "signs, pooled",
    "signs-still": "signs, pooled, steps of 0",
    "signs-tenth": "signs, pooled, a tenth of the steps",
    "signs-third": "signs, pooled, a third of the steps",
    "signs-thrice": "signs, pooled, three times the steps",
    "shares-global": "random, layers' shares of signs",
}
PARTS = ("awom", "relative", "awor", "overlap")  # of interference
HEAD = "| object % | style % | both % | " + " | ".join(STYLES)


def name(method: str) -> str:
    """Return a method's name for people."""
    return NAMES.get(method, method)


def row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def single_table(found: Iterable[Single], rates: Rates) -> str:
    """One row per method and size: scores on objects that the adapters have not seen."""
    lines = [f"| size | method | rate {HEAD} | distance |", "|---|---|" + "---:|" * 8]
    for (rank, method), group in grouped(found, lambda each: (each.rank, each.method)).items():
        size = f"rank {rank}" if rank else ""
        rate = rates.get((method, rank, "style"))
        distance = float(np.mean([each.distance for each in group]))
        cells = (size, name(method), f"{rate:g}" if rate else "", *shares(group))
        lines.append(row([*cells, f"{distance:.3f}"]))
    return "\n".join(lines)


def shares(group: Sequence[Single]) -> list[str]:
    """Return object, style and both right with intervals, and both right by style."""
    parts = [np.stack([getattr(e, part) for e in group]) for part in ("object", "style", "both")]
    styles = grouped(group, lambda each: each.task)
    return [
        *(percent(mean_of(values), values.shape[1]) for values in parts),
        *(whole(float(np.mean([each.both for each in styles[style]]))) for style in STYLES),
    ]


def shuffled_table(found: Iterable[Single]) -> str:
    """One row per method: scores of adapters whose pictures had each other's prompts."""
    lines = [f"| method {HEAD} |", "|---|" + "---:|" * 6]
    for method, group in grouped(found, lambda each: each.method).items():
        lines.append(row([name(method), *shares(group)]))
    return "\n".join(lines)


def alpha_table(found: Iterable[Single]) -> str:
    """Share of pictures with both right, by alpha, at the middle size, seed 0."""
    group = [each for each in found if each.alphas and each.rank in (0, MIDDLE)]
    alphas = sorted({*group[0].alphas, 1.0})
    lines = [row(["method", *(f"{alpha:g}" for alpha in alphas)])]
    lines.append("|---|" + "---:|" * len(alphas))
    for method, members in grouped(group, lambda each: each.method).items():
        at = {alpha: [each.alphas[alpha] for each in members] for alpha in members[0].alphas}
        at[1.0] = [each.both[:48] for each in members]
        lines.append(row([name(method), *(whole(float(np.mean(at[each]))) for each in alphas)]))
    return "\n".join(lines)


def objects_table(known: Iterable[Record], rates: Mapping[tuple[str, int, str], float]) -> str:
    """One row per method, at the middle size: new objects, drawn by adapters that learned them."""
    lines = ["| method | rate | of styles | object % | both % |", "|---|---:|---:|---:|---:|"]
    found = learned_objects(known)
    for method in filter(found.__contains__, NAMES):
        rank = MIDDLE if (method, MIDDLE, "objects") in rates else 0
        scores = [percent(mean_of(values), values.shape[1]) for values in found[method]]
        own, styles = (f"{rates[method, rank, kind]:g}" for kind in ("objects", "style"))
        lines.append(row([name(method), own, styles, *scores]))
    return "\n".join(lines)


def fusion_table(found: Iterable[Fused]) -> str:
    """What comes out of each part in a fusion, and what is left of what it is alone."""
    lines = [
        "| method | two styles: right % | of the better, the other | left % "
        "| three: right % | style beside objects: left % | objects beside style: left % "
        "| new object in new style: right % |",
        "|---|" + "---:|" * 7,
    ]
    for label, group in grouped(found, lambda each: each.label).items():
        two, three, mixed = (
            [each for each in group if wanted(each)]
            for wanted in (lambda f: f.pair, lambda f: f.triple, lambda f: f.mixed)
        )
        cells = [right_of(two), apart(two), left_of(two), right_of(three)]
        cells += [left_of(mixed), left_of(mixed, "objects"), asked_for(mixed)]
        lines.append(row([label, *cells]))
    return "\n".join(lines)


def _parts(group: Iterable[Fused], kind: str) -> list[tuple[Values, Values]]:
    return [part for each in group for part in each.pairs(kind)]


def left_of(group: Sequence[Fused], kind: str = "style") -> str:
    """Return the retention: right in the fusion, in percent of right alone."""
    if not group:
        return ""
    together, alone = (
        np.stack(values).mean(0) for values in zip(*_parts(group, kind), strict=True)
    )

    def ratio(chosen: NDArray[np.intp]) -> float:
        return float(together[chosen].sum() / max(alone[chosen].sum(), 1e-9))

    return percent(ratio, len(together))


def right_of(group: Sequence[Fused]) -> str:
    """Return the share of pictures of one style that are right in the fusion."""
    if not group:
        return ""
    values = np.stack([together for together, _ in _parts(group, "style")])
    return percent(mean_of(values), values.shape[1])


def apart(group: Iterable[Fused]) -> str:
    """Return the shares of the two styles of a pair, the one that comes out better first."""
    shares = [sorted(together.mean() for together, _ in each.pairs("style")) for each in group]
    return ", ".join(whole(share) for share in np.mean(shares, 0)[::-1])


def asked_for(group: Sequence[Fused]) -> str:
    """Return the share of pictures that show the new object in the new style."""
    if not group:
        return ""
    values = np.stack([each.both for each in group])
    return percent(mean_of(values), values.shape[1])


def interference_table(pairs: Sequence[Fused]) -> str:
    """Interference of pairs of styles beside what is left of them; how they go together."""
    lines = [
        "| method | AWOM | relative | AWOR | overlap | two styles: left % |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for label, group in grouped(pairs, lambda each: each.label).items():
        awom, *rest = (np.mean([each.interference[part] for each in group]) for part in PARTS)
        cells = (f"{awom:.1f}", *(f"{value:.2f}" for value in rest))
        lines.append(row([label, *cells, left_of(group)]))
    same = grouped(pairs, lambda each: tuple(each.parts)).values()
    lines += [
        "",
        f"Rank correlation with what is left, {len(pairs)} pairs: {correlations([pairs])}.",
        f"Among pairs of the same two styles, mean of the {len(same)}: {correlations(same)}.",
    ]
    return "\n".join(lines)


def correlations(groups: Collection[Sequence[Fused]]) -> str:
    """Return each figure's rank correlation with what is left, a mean over groups."""
    found = {
        part: np.mean(
            [
                spearman([e.interference[part] for e in group], [e.retention for e in group])
                for group in groups
            ]
        )
        for part in PARTS
    }
    return ", ".join(f"{part} {value:+.2f}" for part, value in found.items())
