"""The rules of captions, buckets and batches, for any input."""

from collections import Counter

import pytest

pytest.importorskip("PIL")
pytest.importorskip("pydantic")
pytest.importorskip("hypothesis")
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_ui.engine.data import buckets, captions, order
from trainer_ui.engine.data.captions import Rule
from trainer_ui.engine.data.dataset import Example

QUICK = settings(max_examples=60, deadline=None)
WORDS = st.text("abc xyz", min_size=1, max_size=6).map(str.strip).filter(bool)
TAGS = st.lists(WORDS, min_size=1, max_size=8)
RULES = st.builds(
    Rule,
    trigger=st.sampled_from(("", "ink style")),
    shuffle=st.booleans(),
    keep=st.integers(0, 9),
    dropout=st.sampled_from((0.0, 0.3, 0.9)),
    variants=st.integers(1, 12),
)


@QUICK
@given(TAGS, RULES, st.integers(0, 2**62))
def test_variants_are_of_the_captions_tags(tags: list[str], rule: Rule, seed: int) -> None:
    text = ", ".join(tags)
    words, found = captions.tags(text), captions.variants(text, rule, seed)
    assert found == captions.variants(text, rule, seed)
    assert 1 <= len(found) == len(set(found)) <= rule.variants
    for variant in found:
        parts = captions.tags(variant)
        if rule.trigger:
            assert parts.pop(0) == rule.trigger
        assert parts[: rule.keep] == words[: rule.keep]
        lost = Counter(words) - Counter(parts)
        assert Counter(parts) + lost == Counter(words)
        assert rule.dropout or not lost
        if not rule.shuffle:
            places = iter(words)
            assert all(part in places for part in parts)


def test_all_orders_are_drawn_about_equally() -> None:
    rule = Rule(shuffle=True, variants=1)
    drawn = Counter(captions.variants("a, b, c", rule, seed)[0] for seed in range(600))
    assert len(drawn) == 6
    assert all(60 < count < 145 for count in drawn.values())


def test_tags_are_left_out_as_often_as_asked() -> None:
    rule = Rule(dropout=0.25, variants=1)
    kept = sum(len(captions.tags(captions.variants("a, b, c, d", rule, n)[0])) for n in range(500))
    assert kept / 2000 == pytest.approx(0.75, abs=0.04)


def test_a_trigger_among_the_tags_is_not_lost() -> None:
    rule = Rule("ink style", shuffle=True, dropout=0.6, variants=50)
    for variant in captions.variants("a cat, ink style, a mat", rule, 0):
        assert captions.tags(variant).count("ink style") == 1


def test_a_caption_without_rules_stays_as_written() -> None:
    assert captions.variants("One; two,three ", Rule(variants=8), 0) == ("One; two,three ",)


SIDES = st.integers(1, 5000)
RESOLUTIONS = st.integers(8, 192).map(lambda n: 8 * n)


@QUICK
@given(RESOLUTIONS, st.sampled_from((32, 64)))
def test_buckets_are_right_for_the_unet(resolution: int, step: int) -> None:
    found = buckets.sizes(resolution, step)
    assert (resolution, resolution) in found
    for width, height in found:
        assert (height, width) in found
        assert width * height <= resolution**2
        if width != height:
            assert width % step == height % step == 0
            assert resolution // 2 <= min(width, height) <= max(width, height) <= 2 * resolution
            longer = max(width, height)
            assert (min(width, height) + step) * longer > resolution**2 or longer == 2 * resolution


def test_the_buckets_of_512() -> None:
    expected = {(256, 1024), (320, 768), (384, 640), (448, 576), (512, 512), (576, 448)}
    assert expected <= set(buckets.sizes(512, 64))
    narrow = buckets.sizes(512, 64, smallest=448, largest=576)
    assert narrow == ((448, 576), (512, 512), (576, 448))


@QUICK
@given(SIDES, SIDES, RESOLUTIONS)
def test_the_bucket_of_the_nearest_shape_is_chosen(
    width: int, height: int, resolution: int
) -> None:
    every = buckets.sizes(resolution, 64)
    chosen = buckets.choose((width, height), every)

    def cut_off(bucket: tuple[int, int]) -> float:
        wide, high = bucket[0] / width, bucket[1] / height
        return 1 - min(wide, high) / max(wide, high)

    assert cut_off(chosen) == pytest.approx(min(map(cut_off, every)), abs=1e-6)


@QUICK
@given(SIDES, SIDES, RESOLUTIONS)
def test_without_enlarging_a_bucket_lies_within_the_picture(
    width: int, height: int, resolution: int
) -> None:
    bucket = buckets.choose((width, height), buckets.sizes(resolution, 64))
    kept = buckets.within((width, height), bucket, 64)
    fits = width >= bucket[0] and height >= bucket[1]
    assert kept == bucket if fits else kept[0] % 64 == kept[1] % 64 == 0
    assert kept[0] <= min(width, bucket[0])
    assert kept[1] <= min(height, bucket[1])
    if not fits and min(kept):
        assert buckets.scale((width, height), kept) <= 1


def example(bucket: tuple[int, int], repeats: int = 1, is_class: bool = False) -> Example:
    return Example(None, "", None, ("",), bucket, bucket, repeats, is_class=is_class)  # type: ignore[arg-type]


@QUICK
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=12),
    st.integers(1, 5),
    st.integers(0, 1000),
    st.integers(-3, 3),
)
def test_every_view_is_seen_equally_often(
    shapes: list[int], size: int, seed: int, cycle: int
) -> None:
    examples = [example((64 + 64 * shape, 64)) for shape in shapes]
    views = order.views(examples)
    groups = order.groups(views, examples)
    seen: Counter[int] = Counter()
    for number in range(cycle * len(views), (cycle + 1) * len(views)):
        rows = order.pick(seed, number, size, groups)
        assert rows == order.pick(seed, number, size, groups)
        assert len(rows) == size
        assert len({examples[views[row].example].bucket for row in rows}) == 1
        seen.update(rows)
    assert seen == dict.fromkeys(range(len(views)), size)


def test_one_bucket_goes_through_all_pictures_in_each_epoch() -> None:
    seen = [row for n in range(7) for row in order.pick(3, n, 4, [list(range(7))])]
    epochs = [seen[i : i + 7] for i in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_views_are_repeats_cuts_and_mirrors() -> None:
    views = order.views([example((64, 64), repeats=3), example((64, 64))], cuts=2, flip=True)
    counts = Counter((view.example, view.cut, view.flipped) for view in views)
    assert len(views) == (3 + 1) * 2 * 2
    assert all(count == (3, 1)[each] for (each, _, _), count in counts.items())


@pytest.mark.parametrize(("learned", "kept"), [(5, 200), (200, 5), (3, 7), (4, 4)])
def test_as_many_class_images_as_others_are_seen(learned: int, kept: int) -> None:
    examples = [example((64, 64))] * learned + [example((64, 64), is_class=True)] * kept
    views = order.views(examples)
    classes = [examples[view.example].is_class for view in views]
    assert sum(classes) * 2 == len(views) == 2 * max(learned, kept)
    counts = Counter(view.example for view in views)
    assert len(counts) == learned + kept
    for part in (range(learned), range(learned, learned + kept)):
        numbers = [counts[each] for each in part]
        assert max(numbers) - min(numbers) <= 1
