"""Adapter switching on a full-size SD1.5 UNet: SHiRA against LoRA fusing and PEFT's SHiRA.

    python benchmarks/switch.py                 # every method and dtype, one process each
    python benchmarks/switch.py --repeats 3     # a quick look

The UNet has SD1.5's shapes and random weights; adapters are random. Every method changes the same
modules: all Linear weights of the transformer blocks (attention and feed-forward), the
ones that diffusers' LoRA and PEFT's SHiRA can both cover. LoRA has rank 64. `shira` trains 2 % of
each weight, as the paper does. `shira-equal` and `peft-shira` have exactly LoRA's number of
parameters, 64 * (inputs + outputs) per weight: 4 % to 40 %. Entries are random, the
worst case for memory, except in `shira-struct`: 2 % of the rows and the diagonal. The two adapters
have different entries, except in `shira-shared` and `shira-struct-shared`: WM adapters of one base,
and Struct adapters of one shard, have one mask.

- warm switch: adapter A is active, both are in memory; then B is active.
- alpha: the active adapter's strength changes.
- cold: from a file on disk (in the page cache) to active on the base.
- restore: back to the base.
For LoRA a switch is unfuse A + fuse B; the goal is stated against fuse alone, so both are given.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from common import in_own_process, median_ms, median_of_setup_ms, save_results
from torch import Tensor, nn

RANK = 64
DENSITY = 0.02
LORA_FILE = "lora.safetensors"
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
METHODS = (
    "shira",
    "shira-shared",
    "shira-struct",
    "shira-struct-shared",
    "shira-equal",
    "lora",
    "peft-shira",
    "limits",
)
Times = dict[str, Any]


def sd15_unet(dtype: torch.dtype) -> nn.Module:
    """Return a UNet of SD1.5's shapes with random weights."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768).to(dtype).eval()


def targets(unet: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Yield the attention projections by name."""
    for name, module in unet.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(TARGETS):
            yield name, module


def random_adapter(
    unet: nn.Module, seed: int, density: float | None, rows: bool = False, mask: int | None = None
) -> Any:
    """Return a SHiRA adapter: `density` of every target, or the entries of LoRA at rank 64.

    mask: seed of the entries, where it shall differ from that of the values.
    """
    from shira_core.adapter import Adapter, Header, MemoryWeights
    from shira_core.mask import Mask, SparseDelta

    generator = torch.Generator().manual_seed(seed)
    places = torch.Generator().manual_seed(1000 + (seed if mask is None else mask))
    weights = MemoryWeights()
    for name, module in targets(unet):
        shape = tuple(module.weight.shape)
        total = math.prod(shape)
        if rows:
            chosen = struct_mask(shape, seed if mask is None else mask)
        else:
            count = RANK * sum(shape) if density is None else int(total * density)
            chosen = Mask(shape, torch.randperm(total, generator=places)[:count].sort().values)
        values = torch.randn(chosen.count, generator=generator).mul_(0.01).half()
        weights[f"{name}.weight"] = SparseDelta(chosen, values)
    return Adapter(Header(), weights)


def struct_mask(shape: tuple[int, int], shift: int) -> Any:
    """Return the mask of every 50th row from row `shift` on, and of the diagonal."""
    from shira_core.mask import Mask, Struct
    from shira_core.struct import positions_of

    rows = torch.arange(shift, shape[0], round(1 / DENSITY))
    struct = Struct(rows, torch.empty(0, dtype=torch.int64), diagonal=True)
    return Mask(shape, positions_of(shape, struct), struct)


def fingerprint(unet: nn.Module) -> dict[str, Tensor]:
    """Copy the target weights."""
    return {name: module.weight.detach().clone() for name, module in targets(unet)}


def differing(unet: nn.Module, before: dict[str, Tensor]) -> int:
    """Count target entries that are no longer what they were, bit for bit."""
    return sum(int((module.weight != before[name]).sum()) for name, module in targets(unet))


def measure_shira(
    unet: nn.Module,
    repeats: int,
    density: float | None,
    rows: bool = False,
    mask: int | None = None,
) -> Times:
    """Time `shira_core.apply` on a module."""
    import shira_core as shira

    a, b = (random_adapter(unet, seed, density, rows, mask) for seed in (1, 2))
    before = fingerprint(unet)
    held: list[Any] = []

    def active(adapter: Any) -> None:
        held.append(shira.apply(unet, [(adapter, 1.0)]))

    def drop() -> None:
        while held:
            held.pop().remove()

    times: Times = {"entries": a.entries}
    times["load_active_ms"] = median_of_setup_ms(drop, lambda: active(a), repeats)
    drop()
    times["restore_ms"] = median_of_setup_ms(lambda: active(a), drop, repeats)
    times["changed_after_restore"] = differing(unet, before)
    active(a)
    stack = held[-1]
    other = [a]

    def switch() -> None:
        other[0] = b if other[0] is a else a
        stack.set([(other[0], 1.0)])

    times["switch_ms"] = median_ms(switch, 2 * repeats, warmup=2)
    alphas = [0.5, 0.8]

    def change_alpha() -> None:
        alphas.reverse()
        stack.set_alpha(0, alphas[0])

    times["alpha_ms"] = median_ms(change_alpha, repeats)
    drop()
    times["changed_at_the_end"] = differing(unet, before)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.shira"
        a.save(path)
        times["file_bytes"] = path.stat().st_size
        times["cold_ms"] = median_of_setup_ms(drop, lambda: active(shira.load(path)), repeats)
        drop()
    return times


def measure_lora(unet: nn.Module, repeats: int) -> Times:
    """Time diffusers' fuse_lora and unfuse_lora on PEFT layers."""
    from peft import LoraConfig

    before = fingerprint(unet)
    config = LoraConfig(
        r=RANK, lora_alpha=RANK, target_modules=list(TARGETS), init_lora_weights=False
    )
    for name in ("a", "b"):
        unet.add_adapter(config, adapter_name=name)
    unet.set_adapter("a")
    shrink(unet, "lora_")
    with tempfile.TemporaryDirectory() as folder:
        unet.save_lora_adapter(folder, adapter_name="a", weight_name=LORA_FILE)
        size = (Path(folder) / LORA_FILE).stat().st_size
        fuse = lambda: unet.fuse_lora(adapter_names=["a"])  # noqa: E731
        times: Times = {"entries": lora_parameters(unet), "file_bytes": size}
        times["load_active_ms"] = median_of_setup_ms(unet.unfuse_lora, fuse, repeats)
        times["restore_ms"] = median_of_setup_ms(fuse, unet.unfuse_lora, repeats)
        times["changed_after_restore"] = differing_base(unet, before)
        names = ["a", "b"]

        def switch() -> None:
            unet.unfuse_lora()
            names.reverse()
            unet.fuse_lora(adapter_names=[names[0]])

        fuse()
        times["switch_ms"] = median_ms(switch, repeats)
        unet.unfuse_lora()
        scales = [0.5, 0.8]

        def change_alpha() -> None:
            unet.unfuse_lora()
            scales.reverse()
            unet.fuse_lora(lora_scale=scales[0], adapter_names=["a"])

        unet.fuse_lora(adapter_names=["a"])
        times["alpha_ms"] = median_ms(change_alpha, repeats)
        unet.unfuse_lora()
        times["cold_ms"] = cold_lora(unet, Path(folder), repeats)
    return times


def cold_lora(unet: nn.Module, folder: Path, repeats: int) -> float:
    """Time load_lora_adapter + fuse_lora on the plain UNet."""

    def unload() -> None:
        unet.unfuse_lora()
        unet.unload_lora()

    def load_and_fuse() -> None:
        unet.load_lora_adapter(
            str(folder), prefix=None, adapter_name="c", weight_name=LORA_FILE, use_safetensors=True
        )
        unet.fuse_lora(adapter_names=["c"])

    return median_of_setup_ms(unload, load_and_fuse, max(1, repeats // 2))


def measure_peft_shira(unet: nn.Module, repeats: int) -> Times:
    """Time PEFT's own SHiRA merge and unmerge (`ShiraModel`, random mask)."""
    from peft import ShiraConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict

    before = fingerprint(unet)
    config = ShiraConfig(r=RANK, random_seed=0, target_modules=list(TARGETS), init_weights=False)
    model = get_peft_model(unet, config, adapter_name="first")
    model.add_adapter("second", config)
    shrink(model, "shira_weight")
    layers = [module for module in model.modules() if hasattr(module, "shira_weight")]

    def merge(name: str) -> None:
        with torch.no_grad():
            for layer in layers:
                layer.merge(adapter_names=[name])

    def unmerge() -> None:
        with torch.no_grad():
            for layer in layers:
                if layer.merged:
                    layer.unmerge()

    times: Times = {"entries": sum(layer.shira_weight["first"].numel() for layer in layers)}
    times["load_active_ms"] = median_of_setup_ms(unmerge, lambda: merge("first"), repeats)
    times["restore_ms"] = median_of_setup_ms(lambda: merge("first"), unmerge, repeats)
    times["changed_after_restore"] = differing_base(unet, before)
    names = ["first", "second"]

    def switch() -> None:
        unmerge()
        names.reverse()
        merge(names[0])

    merge("first")
    times["switch_ms"] = median_ms(switch, repeats)
    times["alpha_ms"] = times["switch_ms"]  # a new scale needs the same unmerge and merge
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, selected_adapters=["first"])
        saved = Path(folder) / "first"
        times["file_bytes"] = sum(path.stat().st_size for path in saved.glob("*.safetensors"))

        def load_and_merge() -> None:
            set_peft_model_state_dict(model, load_peft_weights(str(saved)), adapter_name="first")
            merge("first")

        times["cold_ms"] = median_of_setup_ms(unmerge, load_and_merge, repeats)
    return times


def measure_limits(unet: nn.Module, repeats: int) -> Times:
    """Time what no switch can avoid, on the same 2 % of all targets.

    put, gather: write or read finished values at known positions, nothing else; a switch between
    masks that share no entry is two puts and a gather.
    rewrite_all: read and write every target weight once, as anything that fuses has to.
    """
    adapter = random_adapter(unet, 1, DENSITY)
    jobs = []
    for name, module in targets(unet):
        flat = module.weight.detach().view(-1)
        positions = adapter.weights[f"{name}.weight"].positions
        jobs.append((flat, positions, flat[positions].clone()))

    def put() -> None:
        for flat, positions, values in jobs:
            flat.index_copy_(0, positions, values)

    def gather() -> None:
        for flat, positions, values in jobs:
            torch.index_select(flat, 0, positions, out=values)

    def add() -> None:
        for flat, _, _ in jobs:
            flat.add_(0.0)

    return {
        "entries": adapter.entries,
        "put_ms": median_ms(put, 2 * repeats),
        "gather_ms": median_ms(gather, 2 * repeats),
        "rewrite_all_ms": median_ms(add, 2 * repeats),
    }


def shrink(model: nn.Module, part: str) -> None:
    """Scale the random adapter parameters to the size of trained ones."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if part in name:
                parameter.mul_(0.01)


def lora_parameters(unet: nn.Module) -> int:
    named = unet.named_parameters()
    return sum(p.numel() for name, p in named if "lora_" in name and ".a." in name)


def differing_base(unet: nn.Module, before: dict[str, Tensor]) -> int:
    """Count changed entries in the base layers below PEFT's wrappers."""
    total = 0
    for name, module in unet.named_modules():
        original = name.removesuffix(".base_layer")
        if name.endswith(".base_layer") and original in before:
            total += int((module.weight != before[original]).sum())
    return total


def measure(method: str, dtype: str, repeats: int) -> Times:
    """Build the UNet and time one method in this process."""
    unet = sd15_unet(DTYPES[dtype])
    unet.requires_grad_(False)
    gc.collect()
    if method.startswith("shira"):
        density = None if method == "shira-equal" else DENSITY
        rows, mask = "struct" in method, 1 if "shared" in method else None
        times = measure_shira(unet, repeats, density, rows, mask)
    else:
        action = {
            "lora": measure_lora,
            "peft-shira": measure_peft_shira,
            "limits": measure_limits,
        }[method]
        times = action(unet, repeats)
    times["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return times


def ratios(results: dict[str, Times]) -> dict[str, float]:
    """Return how many times faster ours is than diffusers' LoRA and PEFT's SHiRA."""
    kinds = ("", "-shared", "-struct", "-struct-shared", "-equal")
    ours, shared, struct, struct_shared, equal = (results[f"shira{kind}"] for kind in kinds)
    lora, peft = results["lora"], results["peft-shira"]
    return {
        "switch over LoRA fuse": lora["load_active_ms"] / ours["switch_ms"],
        "switch over LoRA unfuse + fuse": lora["switch_ms"] / ours["switch_ms"],
        "alpha over LoRA unfuse + fuse": lora["alpha_ms"] / ours["alpha_ms"],
        "cold over LoRA load + fuse": lora["cold_ms"] / ours["cold_ms"],
        "restore over LoRA unfuse": lora["restore_ms"] / ours["restore_ms"],
        "one mask: switch over LoRA fuse": lora["load_active_ms"] / shared["switch_ms"],
        "one mask: switch over LoRA unfuse + fuse": lora["switch_ms"] / shared["switch_ms"],
        "Struct: switch over LoRA fuse": lora["load_active_ms"] / struct["switch_ms"],
        "Struct, one mask: switch over LoRA fuse": lora["load_active_ms"]
        / struct_shared["switch_ms"],
        "Struct, one mask: switch over LoRA unfuse + fuse": lora["switch_ms"]
        / struct_shared["switch_ms"],
        "Struct: alpha over LoRA unfuse + fuse": lora["alpha_ms"] / struct["alpha_ms"],
        "Struct: cold over LoRA load + fuse": lora["cold_ms"] / struct["cold_ms"],
        "Struct: restore over LoRA unfuse": lora["restore_ms"] / struct["restore_ms"],
        "equal parameters: switch over LoRA fuse": lora["load_active_ms"] / equal["switch_ms"],
        "equal parameters: restore over LoRA unfuse": lora["restore_ms"] / equal["restore_ms"],
        "equal parameters: switch over PEFT SHiRA": peft["switch_ms"] / equal["switch_ms"],
        "equal parameters: cold over PEFT SHiRA": peft["cold_ms"] / equal["cold_ms"],
        "equal parameters: restore over PEFT SHiRA": peft["restore_ms"] / equal["restore_ms"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--method", choices=METHODS, help="measure one method, print JSON")
    parser.add_argument("--dtype", choices=DTYPES)
    args = parser.parse_args()
    if args.method:
        print(json.dumps(measure(args.method, args.dtype or "fp32", args.repeats)))
        return
    results: dict[str, Any] = {"repeats": args.repeats}
    for dtype in [args.dtype] if args.dtype else DTYPES:
        rows = results[dtype] = {}
        for method in METHODS:
            options = ["--method", method, "--dtype", dtype, "--repeats", str(args.repeats)]
            rows[method] = in_own_process("switch.py", *options)
            print(dtype, method, json.dumps(rows[method]), flush=True)
        rows["ratios"] = ratios(rows)
        for label, ratio in rows["ratios"].items():
            print(f"{dtype} {label}: {ratio:.1f}x", flush=True)
    save_results("switch", results)


if __name__ == "__main__":
    main()
