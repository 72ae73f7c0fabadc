"""What the node pack must do in a host, as facts: run in the stubs and in a real ComfyUI.

    python comfyui_scenarios.py HOST CHECKOUT FOLDER

HOST: where `comfy` lies. Prints a JSON object of facts by scenario. A fact is mostly true or not;
what a person reads is given as text.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch
from comfyui_encoders import encoders
from comfyui_memory import kinds_of_weights, on_a_real_host
from comfyui_setting import (
    RealHost,
    Setting,
    StubHost,
    by_patches,
    digest,
    error_of,
    near,
    random_adapter,
)

CLONE = "/ComfyUI/custom_nodes/clone"  # ComfyUI names modules by their paths
Facts = dict[str, Any]


def loading(s: Setting) -> Facts:
    draw, adapted = s.host.draw, s.load(s.model, "first.shira", 0.8)
    drawn = draw(adapted)
    return {
        "in place": s.way("first.shira", 0.8) == "applied in place, during sampling only",
        "has an effect": not near(drawn, s.base),
        "as dense arithmetic": torch.equal(drawn, s.dense((s.first, 0.8))),
        "as patches": torch.equal(drawn, draw(by_patches(adapted))),
        "clean after patches": s.clean(),
        "again the same": torch.equal(drawn, draw(adapted)),
        "clean right after a run": digest(adapted.model) == s.before,
        "another alpha": torch.equal(
            draw(s.load(s.model, "first.shira", -1.5)), s.dense((s.first, -1.5))
        ),
        "alpha 0": torch.equal(draw(s.load(s.model, "first.shira", 0.0)), s.base),
        "the base is clean": s.clean(),
    }


def stacks(s: Setting) -> Facts:
    draw = s.host.draw
    one = s.load(s.load(s.model, "first.shira", 0.8), "second.shira", 0.5)
    other = s.load(s.load(s.model, "second.shira", 0.5), "first.shira", 0.8)
    drawn = draw(one)
    rows = '[{"name": "first.shira", "alpha": 0.8}, {"name": "second.shira", "alpha": 0.5}]'
    fused = s.fuse(rows, model=s.model)
    off = rows.replace('"alpha": 0.5', '"alpha": 0.5, "on": false')
    return {
        "two loaders": near(drawn, s.dense((s.first, 0.8), (s.second, 0.5))),
        "any order": torch.equal(drawn, draw(other)),
        "two loaders by patches": torch.equal(drawn, draw(by_patches(one))),
        "rows": torch.equal(drawn, draw(fused[0])),
        "stack handed on": torch.equal(
            drawn, draw(s.load(s.model, "second.shira", 0.5, stack=s.fuse("first.shira: 0.8")[2]))
        ),
        "a row that is off": torch.equal(
            draw(s.fuse(off, model=s.model)[0]), draw(s.load(s.model, "first.shira", 0.8))
        ),
        "report": "overlap" in fused[3] and "in place" in fused[3],
        "heat map": fused[4].shape[0] == 1 and fused[4].shape[3] == 3,
        "alternating": all(
            torch.equal(draw(each), wanted)
            for each, wanted in [(one, drawn), (s.model, s.base)] * 2
        ),
        "modes differ": not near(drawn, draw(s.fuse(rows, "mean", s.model)[0])),
        "measured": "AWOR"
        in s.nodes["SHiRAStack"]().fuse(rows, "sum", measure="overlap, AWOR and AWOM")["result"][3],
        "the base is clean": s.clean(),
    }


def with_others(s: Setting) -> Facts:
    draw, generator = s.host.draw, torch.Generator().manual_seed(5)
    weights = s.model.model.state_dict()
    lora = {
        k: ("diff", (torch.randn(weights[k].shape, generator=generator) * 0.1,)) for k in s.names
    }
    half = dict(list(lora.items())[:1])
    facts: Facts = {}
    for name, patches in (("all", lora), ("some", half)):
        before = s.model.clone()
        before.add_patches(patches, 0.7)
        first = s.load(before, "first.shira", 0.8)
        after = s.load(s.model, "first.shira", 0.8).clone()
        after.add_patches(patches, 0.7)
        one, two, alone = draw(first), draw(after), draw(before)
        dense = s.dense((s.first, 0.8), others={k: 0.7 * v[1][0] for k, v in patches.items()})
        facts[f"LoRA on {name} weights, before"] = near(one, dense)
        facts[f"LoRA on {name} weights, after"] = near(two, dense)
        facts[f"LoRA on {name} weights has an effect"] = not near(one, alone)
        facts[f"clean after LoRA on {name} weights"] = s.clean()
    merged = s.model.clone()
    merged.add_patches(s.load(s.model, "first.shira", 0.8).get_key_patches("diffusion_"), 0.5, 0.5)
    facts["merging sees the adapter"] = near(draw(merged), s.dense((s.first, 0.4)))
    facts["the reason is told"] = "LoRA" in s.way("first.shira", 1.0, before)
    facts["clean after merging"] = s.clean()
    return facts


def giving_back(s: Setting) -> Facts:
    import comfy.model_management as management

    adapted = s.load(s.model, "first.shira", 0.8)
    drawn, seen = s.host.draw(adapted), []

    def stop() -> None:
        seen.append(digest(adapted.model))
        raise RuntimeError("stopped")

    stopped = error_of(lambda: s.host.draw(adapted, stop))
    after = digest(adapted.model)
    management.unload_all_models()
    return {
        "the error gets through": "stopped" in stopped,
        "changed inside of a run": seen[0] != s.before,
        "given back after an error": after == s.before,
        "works after unloading": torch.equal(s.host.draw(adapted), drawn),
        "a clone draws the same": torch.equal(s.host.draw(adapted.clone().clone()), drawn),
        "the base is clean": s.clean(),
    }


def timing(s: Setting) -> Facts:
    draw, stack = s.host.draw, s.fuse("first.shira: 0.8")[2]
    node = s.nodes["SHiRASchedule"]()
    whole = draw(s.load(s.model, "first.shira", 0.8))
    part = node.schedule(s.model, stack, 0.0, 0.5)[0]
    halves = node.schedule(part, stack, 0.5, 1.0)[0]
    steps: list[str] = []
    inside = draw(part, lambda: steps.append(digest(part.model)))
    base = node.schedule(s.load(s.model, "second.shira", 0.3), stack, 0.0, 1.0)[0]
    return {
        "the whole run": torch.equal(draw(node.schedule(s.model, stack, 0.0, 1.0)[0]), whole),
        "two halves": torch.equal(draw(halves), whole),
        "a part is between": not near(inside, whole) and not near(inside, s.base),
        "on first, then off": steps[0] != s.before and steps[-1] == s.before,
        "beside a static one": near(draw(base), s.dense((s.first, 0.8), (s.second, 0.3))),
        "no strength": torch.equal(draw(node.schedule(s.model, stack, 0.0, 1.0, 0.0)[0]), s.base),
        "the base is clean": s.clean(),
    }


def hooks(s: Setting) -> Facts:
    import comfy.hooks
    import comfy.lora

    group = s.nodes["SHiRAHook"]().hook("first.shira", 0.8, 0.8)[0]
    made = s.model.clone()
    hook = group.clone().hooks[0]
    target = {"target": comfy.hooks.EnumWeightTarget.Model}
    registered = comfy.hooks.HookGroup()
    hook.add_hook_patches(made, {}, target, registered)
    found = made.hook_patches[hook.hook_ref]
    weights = s.model.model.state_dict()
    same = all(
        torch.equal(
            comfy.lora.calculate_weight(found[key], weights[key].clone(), key).cpu(),
            weights[key].cpu() + 0.8 * s.first.weights[f"model.{key}"].dense(),
        )
        for key in s.names
    )
    combined = s.nodes["SHiRAHook"]().hook("second.shira", 1.0, 1.0, prev_hooks=group)[0]
    return {
        "patches": same and set(found) == set(s.names),
        "registered": len(registered.hooks) == 1,
        "combined": len(combined.hooks) == 2,
    }


def files(s: Setting) -> Facts:
    adapted = s.load(s.model, "first.shira", 1.0)
    save, info = s.nodes["SHiRASave"]().save, s.nodes["SHiRAInfo"]()
    save(adapted, s.model, "again", 1.0, "a, b")
    loader, names = s.nodes["SHiRALoader"], s.nodes["SHiRALoader"].INPUT_TYPES()
    outside = s.folder.parent / "outside.shira"
    s.first.save(outside)
    (s.folder / "link.shira").symlink_to(outside)
    (s.folder / "bad.shira").write_bytes(b"no adapter")
    bad = ("../outside.shira", str(outside), "link.shira", "bad.shira", "none.shira", "a.ckpt")
    mark = loader.IS_CHANGED("first.shira")
    refused = [loader.VALIDATE_INPUTS(name) for name in bad]
    s.second.save(s.folder / "first.shira", overwrite=True)
    replaced = loader.IS_CHANGED("first.shira") != mark
    drawn = s.host.draw(s.load(s.model, "first.shira", 0.8))
    s.first.save(s.folder / "first.shira", overwrite=True)
    numbers = (float("nan"), float("inf"), 101.0)
    return {
        "saved": near(s.host.draw(s.load(s.model, "again.shira", 1.0)), s.dense((s.first, 1.0))),
        "not saved twice": error_of(lambda: save(adapted, s.model, "again", 1.0, "")),
        "told": save(adapted, s.model, "fewer", 0.01, "")["ui"]["text"][0],
        "nothing to save": error_of(lambda: save(s.model, s.model, "empty", 1.0, "")),
        "names outside": error_of(lambda: save(adapted, s.model, "../x", 1.0, "")),
        "info": info.tell("again.shira")["result"],
        "choices": [name for name in names["required"]["adapter"][0] if "link" not in name],
        "refused": [isinstance(each, str) and "\n" not in each for each in refused],
        "accepted": loader.VALIDATE_INPUTS("first.shira") is True,
        "numbers": [isinstance(loader.VALIDATE_INPUTS("first.shira", n), str) for n in numbers],
        "blocks": isinstance(loader.VALIDATE_INPUTS("first.shira", 1.0, 1.0, "attic=2"), str),
        "replaced": replaced and torch.equal(drawn, s.dense((s.second, 0.8))),
        "the base is clean": s.clean(),
    }


def wrong_model(s: Setting) -> Facts:
    key = s.names[0]
    shape = tuple(s.model.model.state_dict()[key].shape)
    random_adapter({"model.diffusion_model.other.weight": (4, 4)}, 3).save(s.folder / "other.shira")
    random_adapter({f"model.{key}": (*shape[:-1], 99)}, 3).save(s.folder / "wide.shira")
    random_adapter({"first_stage_model.x.weight": (4, 4)}, 3).save(s.folder / "vae.shira")
    errors = {name: s.error(f"{name}.shira") for name in ("other", "wide", "vae")}
    return {"errors": errors, "the base is clean": s.clean()}


def sweeping(s: Setting) -> Facts:
    node = s.nodes["SHiRAAlphaSweep"]
    models, clips, alphas = node().sweep(s.model, "first.shira", "0, 0.5; 1")
    wanted = [s.dense((s.first, alpha)) for alpha in (0.0, 0.5, 1.0)]
    return {
        "pictures": all(
            near(s.host.draw(each), one) for each, one in zip(models, wanted, strict=True)
        ),
        "alphas": alphas,
        "clips": clips,
        "refused": isinstance(node.VALIDATE_INPUTS("first.shira", "a, b"), str),
    }


SCENARIOS = (
    loading,
    kinds_of_weights,
    stacks,
    with_others,
    giving_back,
    timing,
    hooks,
    files,
    wrong_model,
    sweeping,
    encoders,
)


ONLY_REAL = (on_a_real_host,)


def main(where: str, checkout: str, folder: str) -> None:
    sys.path.insert(0, where)
    sys.argv = ["main.py", *([] if torch.cuda.is_available() else ["--cpu"])]
    host: Any = StubHost()
    scenarios = SCENARIOS
    if (Path(where) / "main.py").exists():
        import comfy.options

        comfy.options.enable_args_parsing()
        prepare_packaged_host()
        host, scenarios = RealHost(), (*SCENARIOS, *ONLY_REAL)
    import folder_paths

    home = Path(folder) / "models" / "shira"
    home.mkdir(parents=True)
    folder_paths.models_dir = str(home.parent)
    if "checkpoints" not in folder_paths.folder_names_and_paths:
        folder_paths.folder_names_and_paths["checkpoints"] = ([], set())
    with torch.inference_mode():
        setting = Setting(host, load_pack(checkout), home)
        facts = {scenario.__name__: scenario(setting) for scenario in scenarios}
    print(json.dumps(facts))


def prepare_packaged_host() -> None:
    """Have a ComfyUI that is a package give node packs the modules that they know."""
    try:
        from comfy_compatibility.vanilla import prepare_vanilla_environment
    except ImportError:
        return
    prepare_vanilla_environment()


def load_pack(checkout: str) -> Any:
    """Import the checkout as ComfyUI does, under a name that is no package's."""
    spec = importlib.util.spec_from_file_location(
        CLONE, f"{checkout}/__init__.py", submodule_search_locations=[checkout]
    )
    assert spec
    assert spec.loader
    module = sys.modules[CLONE] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(*sys.argv[1:])
