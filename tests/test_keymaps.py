"""Names, rows and transpositions against diffusers' own converters; translation there and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import sd_modules as sd

import shira_core as shira
from shira_core import keymaps
from shira_core.adapter import Adapter, Header, MemoryWeights
from shira_core.errors import ArchitectureMismatch, FileInvalid, ShapeMismatch, WeightMissing
from shira_core.mask import Mask, SparseDelta, Struct
from shira_core.struct import positions_of
from shira_core.translate import Source, to_checkpoint, translated

FULL = {
    ("sd15", "unet"): 686,
    ("sd15", "te1"): 196,
    ("sd2", "unet"): 686,
    ("sd2", "te1"): 280,
    ("sdxl", "unet"): 1680,
    ("sdxl", "te1"): 196,
    ("sdxl", "te2"): 389,
}


@pytest.mark.parametrize(("architecture", "component"), FULL)
def test_full_size_maps_are_the_inverse_of_diffusers_converters(
    architecture: str, component: str
) -> None:
    with torch.device("meta"):
        module = sd.module(architecture, component, "full")
    weights = sd.weights(module)
    sources = keymaps.sources(architecture, component, module.state_dict())
    shapes = sd.checkpoint_shapes(sources, {name: w.shape for name, w in weights.items()})
    checkpoint = {name: sd.meta(shape) for name, shape in shapes.items()}
    found = sd.official(architecture, component, module, checkpoint)

    assert len(checkpoint) == FULL[architecture, component]
    assert sources.keys() == found.keys() == weights.keys()
    assert len({(s.name, s.part) for s in sources.values()}) == len(sources)
    for name, source in sources.items():
        assert found[name].shape == weights[name].shape, name
        if source.parts == 1 and not source.transposed:
            assert found[name] is checkpoint[source.name], name


@pytest.mark.parametrize(
    ("architecture", "size"),
    [("sd15", "full"), ("sd2", "full"), ("sdxl", "full"), ("sd15", "tiny"), ("sdxl", "tiny")],
)
def test_a_checkpoint_tells_the_names_that_its_weights_have_elsewhere(
    architecture: str, size: str
) -> None:
    with torch.device("meta"):
        modules = {c: sd.module(architecture, c, size) for c in sd.PREFIXES[architecture]}
    shapes, wanted = {}, {}
    for component, sources in sd.sources(architecture, modules).items():
        own = {name: w.shape for name, w in modules[component].state_dict().items()}
        shapes |= sd.checkpoint_shapes(sources, own)
        wanted |= {
            f"{component}.{name.removeprefix('text_model.')}": source
            for name, source in sources.items()
        }
    assert keymaps.targets(shapes) == wanted
    for name, shape in list(shapes.items())[:: 1 + len(shapes) // 60]:  # an adapter has some
        alone = keymaps.targets({name: shape}, architecture)
        assert alone == {target: source for target, source in wanted.items() if source.name == name}
    assert keymaps.targets({"double_blocks.0.img_attn.qkv.weight": (3, 1)}) == {}


PUBLISHED = [
    ("sd15", "unet", "input_blocks.1.1.proj_in.weight", (320, 320, 1, 1)),
    ("sd15", "unet", "input_blocks.3.0.op.weight", (320, 320, 3, 3)),
    ("sd15", "unet", "output_blocks.2.1.conv.weight", (1280, 1280, 3, 3)),
    ("sd15", "unet", "output_blocks.8.2.conv.weight", (640, 640, 3, 3)),
    ("sd15", "te1", "text_model.encoder.layers.11.mlp.fc1.weight", (3072, 768)),
    ("sd2", "unet", "input_blocks.1.1.proj_in.weight", (320, 320)),
    ("sd2", "te1", "transformer.resblocks.22.attn.in_proj_bias", (3072,)),
    ("sdxl", "unet", "label_emb.0.0.weight", (1280, 2816)),
    ("sdxl", "unet", "input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight", (1280, 2048)),
    ("sdxl", "unet", "middle_block.1.proj_out.weight", (1280, 1280)),
    ("sdxl", "unet", "output_blocks.5.2.conv.weight", (640, 640, 3, 3)),
    ("sdxl", "te1", "text_model.embeddings.position_embedding.weight", (77, 768)),
    ("sdxl", "te2", "transformer.resblocks.31.attn.in_proj_weight", (3840, 1280)),
    ("sdxl", "te2", "positional_embedding", (77, 1280)),
    ("sdxl", "te2", "text_projection", (1280, 1280)),
]


@pytest.mark.parametrize(("architecture", "component", "name", "shape"), PUBLISHED)
def test_names_and_shapes_are_those_of_published_checkpoints(
    architecture: str, component: str, name: str, shape: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        module = sd.module(architecture, component, "full")
    sources = keymaps.sources(architecture, component, module.state_dict())
    shapes = {n: tuple(w.shape) for n, w in module.state_dict().items()}
    found = sd.checkpoint_shapes(sources, shapes)
    assert found[sd.PREFIXES[architecture][component] + name] == shape
    if component == "unet":
        assert keymaps.architecture(shapes) == architecture


TINY = [(a, c) for a, parts in sd.PREFIXES.items() if a != "sd2" for c in parts]


def whole(tensor: Tensor) -> SparseDelta:
    """A delta that is the whole tensor."""
    numel = tensor.numel()
    return SparseDelta(Mask(tuple(tensor.shape), torch.arange(numel)), tensor.flatten())


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("architecture", "component"), TINY)
def test_every_number_goes_where_diffusers_puts_it(
    architecture: str, component: str, wrapped: bool
) -> None:
    """Checkpoint tensors of distinct numbers; names with and without `text_model.`."""
    module = sd.module(architecture, component, "tiny")
    weights = sd.weights(module)
    sources = keymaps.sources(architecture, component, weights)
    shapes = sd.checkpoint_shapes(sources, {name: w.shape for name, w in weights.items()})
    checkpoint = {n: torch.randn(torch.Size(s)) for n, s in shapes.items()}
    expected = sd.official(architecture, component, module, checkpoint)
    if wrapped and component != "unet":
        ends = ("text_model.", "text_projection.")
        expected = {n if n.startswith(ends) else f"text_model.{n}": w for n, w in expected.items()}
        sources = keymaps.sources(architecture, component, expected)
    adapter = Adapter(Header(), MemoryWeights({n: whole(w) for n, w in checkpoint.items()}))
    found = translated(adapter, sources)

    assert set(found.weights) == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(found.weights[name].dense(), weight), name
        assert found.weights.origin(name) == sources[name].name
    back = to_checkpoint(found, sources)
    assert set(back.weights) == checkpoint.keys()
    assert all(torch.equal(back.weights[n].dense(), w) for n, w in checkpoint.items())


def test_names_of_other_things_are_left_out() -> None:
    unet = ["conv_in.weight", "down_blocks.0.motion_modules.0.norm.weight", "add_on.weight"]
    assert list(keymaps.sources("sd15", "unet", unet)) == ["conv_in.weight"]
    text = ["text_model.embeddings.position_ids", "encoder.layers.0.self_attn.new.weight"]
    assert keymaps.sources("sdxl", "te2", text) == {}
    assert keymaps.sources("sd15", "te2", ["text_projection.weight"]) == {}


def test_an_unknown_architecture_is_one_clear_line() -> None:
    with pytest.raises(ArchitectureMismatch, match=r"architecture flux.*SD1\.5.*SDXL"):
        keymaps.sources("flux", "unet", [])


def sparse(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float16) -> SparseDelta:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=generator) < 0.1
    positions = mask.flatten().nonzero()[:, 0]
    values = torch.randn(len(positions), generator=generator).to(dtype)
    return SparseDelta(Mask(shape, positions), values)


def adapter_of(**deltas: SparseDelta) -> Adapter:
    return Adapter(Header(), MemoryWeights(deltas))


VIEWS = {
    "whole": (Source("s"), lambda dense: dense),
    "first rows": (Source("s", 0, 3), lambda dense: dense[:8]),
    "middle rows": (Source("s", 1, 3), lambda dense: dense[8:16]),
    "last rows": (Source("s", 2, 3), lambda dense: dense[16:]),
    "transposed": (Source("s", transposed=True), lambda dense: dense.T),
    "rows, transposed": (Source("s", 1, 3, transposed=True), lambda dense: dense[8:16].T),
}


@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("structured", [False, True])
def test_a_view_is_that_view_of_the_dense_weight(kind: str, structured: bool) -> None:
    source, view = VIEWS[kind]
    delta = sparse((24, 10), 0)
    if structured:
        struct = Struct(torch.tensor([3, 9, 20]), torch.tensor([2, 7]), True)
        positions = positions_of((24, 10), struct)
        delta = SparseDelta(Mask((24, 10), positions, struct), torch.randn(len(positions)))
    rest = {f"other {n}": Source("s", n, source.parts) for n in range(source.parts)}
    weights = translated(adapter_of(s=delta), {"t": source, **rest}).weights
    found = weights["t"]
    expected = view(delta.dense())
    assert torch.equal(found.dense(), expected)
    assert weights.shape("t") == found.shape == tuple(expected.shape)
    assert weights.count("t") == found.count == int((expected != 0).sum())
    assert bool((torch.diff(found.positions) > 0).all())
    assert found.values.dtype == delta.values.dtype
    if structured and source.parts == 1:
        assert found.mask.struct is not None
        assert torch.equal(positions_of(found.shape, found.mask.struct), found.positions)


def test_parts_that_were_not_trained_have_no_entries() -> None:
    sources = {n: Source("s", part, 3) for part, n in enumerate("qkv")}
    trained = adapter_of(v=sparse((8, 10), 1), q=sparse((8, 10), 2, torch.float32))
    joined = to_checkpoint(trained, sources)
    dense = joined.weights["s"].dense()
    assert torch.equal(dense[:8], trained.weights["q"].dense())
    assert torch.equal(dense[16:], trained.weights["v"].dense())
    assert not dense[8:16].any()
    assert joined.weights["s"].values.dtype == torch.float32
    again = translated(joined, sources).weights
    assert again["k"].count == 0
    target = {n: torch.ones(8, 10) for n in "qkv"}
    with shira.apply(target, [(translated(joined, sources), 0.5)]):
        assert torch.equal(target["q"], 1 + 0.5 * dense[:8])
        assert torch.equal(target["k"], torch.ones(8, 10))
    assert all(torch.equal(w, torch.ones(8, 10)) for w in target.values())


def test_translations_can_be_chained() -> None:
    adapter = adapter_of(s=sparse((24, 10), 3))
    once = translated(adapter, {n: Source("s", part, 3) for part, n in enumerate("qkv")})
    twice = translated(once, {n.upper(): Source(n, transposed=True) for n in "qkv"})
    assert torch.equal(twice.weights["K"].dense(), adapter.weights["s"].dense()[8:16].T)
    assert twice.weights.origin("K") == "s"


def test_weights_are_read_when_they_are_used(tmp_path: Path) -> None:
    path = adapter_of(s=sparse((24, 10), 4)).save(tmp_path / "a.shira")
    lazy = translated(shira.load(path), {"t": Source("s", transposed=True)})
    path.unlink()
    assert lazy.weights.shape("t") == (10, 24)
    with pytest.raises(FileInvalid, match=r"a\.shira"):
        lazy.weights["t"]


def test_a_weight_without_a_place_is_one_clear_line() -> None:
    te = "cond_stage_model.transformer.text_model.final_layer_norm.weight"
    unet = "model.diffusion_model.out.2.weight"
    adapter = adapter_of(**{unet: sparse((4, 4), 5), te: sparse((4,), 6)})
    with pytest.raises(WeightMissing, match=r"final_layer_norm.weight \(te1\).*it has unet\)"):
        translated(adapter, {"conv_out.weight": Source(unet)})
    apart = translated(adapter, {"conv_out.weight": Source(unet)}, apart=("cond_stage_model.",))
    assert list(apart.weights) == ["conv_out.weight"]
    with pytest.raises(WeightMissing, match="in_proj"):
        translated(adapter_of(in_proj=sparse((24, 4), 7)), {"q": Source("in_proj", 0, 3)})
    with pytest.raises(WeightMissing, match="conv_new"):
        to_checkpoint(adapter_of(conv_new=sparse((4, 4), 8)), {"conv_out.weight": Source(unet)})


@pytest.mark.parametrize(
    ("shape", "source"),
    [
        ((10, 4), Source("s", 0, 3)),
        ((), Source("s", transposed=True)),
        ((4, 4, 1, 1), Source("s", transposed=True)),
    ],
)
def test_a_shape_that_cannot_be_cut_or_turned_is_refused(
    shape: tuple[int, ...], source: Source
) -> None:
    with pytest.raises(ShapeMismatch, match="another architecture"):
        translated(adapter_of(s=sparse(shape, 9)), {"t": source})


def test_unequal_parts_are_refused() -> None:
    sources = {n: Source("s", part, 2) for part, n in enumerate("kv")}
    with pytest.raises(ShapeMismatch, match="parts of s"):
        to_checkpoint(adapter_of(k=sparse((8, 4), 0), v=sparse((4, 4), 1)), sources)
