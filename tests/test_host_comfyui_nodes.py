"""The node pack in a real ComfyUI; `COMFYUI_DIR=... pytest` (see hosts.py)."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import hosts
import numpy as np
import pytest
import torch
from full_size import VISIBLE, FullSize, check_same, difference, write_lora
from hosts import HostFailed, Server
from safetensors.torch import load_file, save_file
from test_comfyui_nodes import FLAGS, STUBS, check_files, check_flags, facts_of
from test_host_comfyui import picture, run, workflow

pytestmark = hosts.needs("COMFYUI_DIR")
ADAPTER, OTHER = "wide.shira", "half.shira"
LORA, CONVERTED = "lora.safetensors", "converted.safetensors"
PREVIEW = b"\x89PNG, as far as a server knows"
IN_PLACE = "SHiRA: applied in place"
LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
Graph = dict[str, Any]


# ---- the scenarios of the stubs, in the host ----
@pytest.fixture(scope="module")
def checkout() -> hosts.Checkout:
    return hosts.checkout("COMFYUI_DIR", "COMFYUI_PYTHON")


@pytest.fixture(scope="module")
def facts(checkout: hosts.Checkout, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("scenarios")
    return facts_of(str(checkout.python), checkout.folder, folder)


@pytest.mark.parametrize("scenario", [*FLAGS, "on_a_real_host"])
def test_a_scenario_holds(facts: dict[str, Any], scenario: str) -> None:
    check_flags(facts, scenario)


def test_files(facts: dict[str, Any]) -> None:
    check_files(facts["files"])


def test_the_stubs_have_the_host_s_signatures(checkout: hosts.Checkout) -> None:
    stubs = signatures(sys.executable, STUBS)
    real = signatures(str(checkout.python), checkout.folder)
    assert set(stubs) == set(real)
    for name, names in stubs.items():
        assert names == real[name][: len(names)], name


SIGNATURES = """
import sys, json, inspect
sys.path.insert(0, sys.argv[1])
sys.argv = ["main.py", "--cpu"]
try:
    import comfy.options
    comfy.options.enable_args_parsing()
except ImportError:
    pass
import folder_paths, comfy.hooks, comfy.lora, comfy.model_management, comfy.model_patcher
import comfy.samplers, comfy.utils, comfy.weight_adapter.base
found = {}
for owner, names in {
    folder_paths: "add_model_folder_path get_folder_paths get_filename_list "
                  "get_full_path_or_raise get_output_directory get_save_image_path",
    comfy.utils: "get_attr",
    comfy.lora: "calculate_weight",
    comfy.model_patcher: "get_key_weight",
    comfy.model_patcher.ModelPatcher: "__init__ clone is_clone add_patches add_hook_patches "
        "get_key_patches partially_load unpatch_model detach add_wrapper_with_key "
        "remove_wrappers_with_key set_attachments get_attachment get_model_object",
    comfy.samplers.CFGGuider: "sample predict_noise",
    comfy.hooks.WeightHook: "__init__ should_register add_hook_patches clone",
    comfy.hooks.HookGroup: "add clone clone_and_combine",
    comfy.weight_adapter.base.WeightAdapterBase: "calculate_weight",
    comfy.utils.ProgressBar: "update update_absolute",
    comfy.model_management: "throw_exception_if_processing_interrupted cast_to_device",
}.items():
    for name in names.split():
        found[f"{owner.__name__}.{name}"] = list(inspect.signature(getattr(owner, name)).parameters)
print(json.dumps(found))
"""


def signatures(python: str, host: Path) -> dict[str, list[str]]:
    """Return the names of the parameters of what the pack uses."""
    command = [python, "-c", SIGNATURES, str(host)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=host)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


# ---- the server ----
@pytest.fixture(scope="module")
def comfyui(
    checkout: hosts.Checkout, full_size: FullSize, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("comfyui")
    models = base / "models"
    for folder in ("checkpoints", "shira", "loras"):
        (models / folder).mkdir(parents=True)
    for checkpoint in (full_size.plain, full_size.styled):
        (models / "checkpoints" / checkpoint.name).symlink_to(checkpoint)
    write_adapters(models / "shira", full_size)
    save_file(random_lora(), str(models / "loras" / LORA))
    write_lora(full_size.wide, models / "loras" / CONVERTED)
    with hosts.serving_comfyui(checkout, base) as server:
        yield server


def write_adapters(folder: Path, full_size: FullSize) -> None:
    import shira_core as shira

    (folder / ADAPTER).write_bytes(full_size.wide.read_bytes())
    (folder / ADAPTER).with_suffix(".preview.png").write_bytes(PREVIEW)
    adapter = shira.load(full_size.wide)
    shira.mix([(adapter, -0.5)]).save(folder / OTHER)
    (folder / "cut.shira").write_bytes(full_size.wide.read_bytes()[:-1000])
    (folder / "compact.shira").write_bytes(full_size.compact.read_bytes())
    (folder.parent / "secret.shira").write_bytes(full_size.compact.read_bytes())


def random_lora() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    up, down = (torch.randn(size, generator=generator) for size in ((320, 4), (4, 320)))
    return {f"{LAYER}.lora_up.weight": up * 0.05, f"{LAYER}.lora_down.weight": down * 0.05}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def adapted(alpha: float = 1.0, name: str = ADAPTER) -> Graph:
    """Return a graph that draws with an adapter; the picture is its only output."""
    graph = workflow("plain.safetensors")
    del graph["class"]  # the host runs a graph as long as one output is sound
    given = {"model": ["model", 0], "clip": ["model", 1], "alpha": alpha, "alpha_te": alpha}
    graph["shira"] = node("SHiRALoader", adapter=name, **given)
    use(graph, "shira")
    return graph


def use(graph: Graph, name: str) -> None:
    """Have a graph draw with the model and text encoder of a node."""
    graph["latent"]["inputs"]["model"] = [name, 0]
    for text in ("yes", "no"):
        graph[text]["inputs"]["clip"] = [name, 1]


def drawn(server: Server, graph: Graph) -> np.ndarray:
    return picture(server, run(server, graph))


def probed(graph: Graph) -> Graph:
    """Add a node that hashes the weights after the picture."""
    graph["digest"] = node("TestWeights", model=["model", 0], after=["picture", 0])
    return graph


def refused(server: Server, graph: Graph) -> str:
    """Queue a graph that must be refused with 400; return what the server says."""
    request = urllib.request.Request(
        server.url + "/prompt", json.dumps({"prompt": graph}).encode(), method="POST"
    )
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30)
    assert error.value.code == 400
    return error.value.read().decode()


def test_loading_draws_as_the_baked_checkpoint_and_leaves_nothing(comfyui: Server) -> None:
    first = run(comfyui, probed(workflow("plain.safetensors")))
    base, digest = picture(comfyui, first), first["digest"]["digest"]
    styled = run(comfyui, probed(adapted()))
    baked = drawn(comfyui, workflow("styled.safetensors"))
    check_same(picture(comfyui, styled), baked)
    assert difference(baked, base)["mean"] > VISIBLE
    assert styled["digest"]["digest"] == digest
    assert styled["shira"]["text"] == ["applied in place, during sampling only"]
    assert np.array_equal(drawn(comfyui, adapted(0.0)), base)
    again = run(comfyui, probed(workflow("plain.safetensors")))
    assert np.array_equal(picture(comfyui, again), base)
    assert again["digest"]["digest"] == digest


def test_a_lora_before_and_after_gives_one_picture(comfyui: Server) -> None:
    given = {"lora_name": LORA, "strength_model": 1.0, "strength_clip": 1.0}
    before, after = adapted(0.7), adapted(0.7)
    before["lora"] = node("LoraLoader", model=["model", 0], clip=["model", 1], **given)
    before["shira"]["inputs"] |= {"model": ["lora", 0], "clip": ["lora", 1]}
    after["lora"] = node("LoraLoader", model=["shira", 0], clip=["shira", 1], **given)
    use(after, "lora")
    one, other = drawn(comfyui, before), drawn(comfyui, after)
    check_same(one, other)
    assert difference(one, drawn(comfyui, adapted(0.7)))["mean"] > 0


def test_a_lora_that_was_converted_draws_what_the_adapter_draws(comfyui: Server) -> None:
    graph = workflow("plain.safetensors")
    given = {"lora_name": CONVERTED, "strength_model": 1.0, "strength_clip": 1.0}
    graph["lora"] = node("LoraLoader", model=["model", 0], clip=["model", 1], **given)
    use(graph, "lora")
    check_same(drawn(comfyui, graph), drawn(comfyui, adapted()))


def test_two_samplers_with_different_stacks_in_one_graph(comfyui: Server) -> None:
    graph = adapted(1.0)
    rows = json.dumps([{"name": OTHER, "alpha": 1.0}])
    given = {"model": ["model", 0], "clip": ["model", 1], "rows": rows, "mode": "sum"}
    graph["stack"] = node("SHiRAStack", **given)
    sampler, decoder, saved = (
        dict(graph[each]["inputs"]) for each in ("latent", "picture", "saved")
    )
    graph["second"] = node("KSampler", **sampler | {"model": ["stack", 0]})
    graph["second picture"] = node("VAEDecode", **decoder | {"samples": ["second", 0]})
    graph["second saved"] = node("SaveImage", **saved | {"images": ["second picture", 0]})
    both = run(comfyui, graph)
    check_same(picture(comfyui, both), drawn(comfyui, adapted(1.0)))
    alone = adapted(1.0)
    alone["stack"] = graph["stack"]
    alone["latent"]["inputs"]["model"] = ["stack", 0]
    second = picture(comfyui, {"saved": both["second saved"]})
    check_same(second, drawn(comfyui, alone))
    assert difference(second, picture(comfyui, both))["mean"] > VISIBLE


def test_after_freeing_all_it_draws_the_same(comfyui: Server) -> None:
    before = drawn(comfyui, adapted(0.9))
    comfyui.fetch("/free", {"unload_models": True, "free_memory": True})
    graph = adapted(0.9)
    graph["saved"]["inputs"]["filename_prefix"] = "again"
    assert np.array_equal(drawn(comfyui, graph), before)


def test_a_cancelled_run_leaves_nothing_and_the_queue_goes_on(comfyui: Server) -> None:
    digest = run(comfyui, probed(workflow("plain.safetensors")))["digest"]["digest"]
    long, told = adapted(0.8), comfyui.log().count(IN_PLACE)
    long["latent"]["inputs"]["steps"] = 500
    number = comfyui.ask("/prompt", {"prompt": long})["prompt_id"]

    def sampling() -> bool | None:
        return comfyui.log().count(IN_PLACE) > told or None

    comfyui.wait(sampling, hosts.DRAW_SECONDS, "sampling")
    comfyui.fetch("/interrupt", {})

    def ended() -> Any:
        return comfyui.ask(f"/history/{number}").get(number)

    status = comfyui.wait(ended, hosts.DRAW_SECONDS, "end")["status"]
    assert "execution_interrupted" in [name for name, _ in status["messages"]]
    assert run(comfyui, probed(workflow("plain.safetensors")))["digest"]["digest"] == digest


def test_bake_writes_what_the_command_writes(comfyui: Server, full_size: FullSize) -> None:
    rows = json.dumps([{"name": ADAPTER}])
    graph = {"stack": node("SHiRAStack", rows=rows, mode="sum")}
    where = {"checkpoint": full_size.plain.name, "filename_prefix": "checkpoints/baked"}
    graph["baked"] = node("SHiRABake", stack=["stack", 2], **where)
    said = run(comfyui, graph)["baked"]["text"][0]
    path = Path(said.removeprefix("wrote "))
    baked, wanted = (load_file(each) for each in (path, full_size.styled))
    path.unlink()
    assert baked.keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in baked.items())


@pytest.mark.parametrize("name", ["../secret.shira", "/etc/passwd", "none.shira", "cut.shira"])
def test_a_bad_file_is_refused_at_the_node(comfyui: Server, name: str) -> None:
    said = json.loads(refused(comfyui, adapted(name=name)))
    assert list(said["node_errors"]) == ["shira"]


@pytest.mark.parametrize("alpha", [float("nan"), 1e9])
def test_a_bad_alpha_is_refused_at_the_node(comfyui: Server, alpha: float) -> None:
    assert "alpha" in refused(comfyui, adapted(alpha))


def test_the_wrong_architecture_fails_at_the_node_and_the_queue_goes_on(comfyui: Server) -> None:
    with pytest.raises(HostFailed, match=r"compact SD1\.5 and the model is SD1\.5"):
        run(comfyui, adapted(name="compact.shira"))
    info = {"info": node("SHiRAInfo", adapter=ADAPTER)}
    assert "SD1.5" in run(comfyui, info)["info"]["text"][0]


def test_the_routes_tell_of_adapters_only(comfyui: Server) -> None:
    found = {each["name"]: each for each in comfyui.ask("/shira/adapters")}
    assert found[ADAPTER]["architecture"] == "SD1.5"
    assert "error" in found["cut.shira"]
    assert comfyui.ask(f"/shira/info?name={ADAPTER}")["entries"] > 0
    assert comfyui.fetch(f"/shira/preview?name={ADAPTER}") == PREVIEW
    for name in ("../secret.shira", "/etc/passwd", "", "none.shira"):
        for route in ("info", "preview"):
            with pytest.raises(HostFailed, match="HTTP Error 400"):
                comfyui.fetch(f"/shira/{route}?name={quote(name)}")


def test_the_log_shows_no_traceback_of_ours(comfyui: Server) -> None:
    assert "IMPORT FAILED" not in comfyui.log()
    assert "Task exception was never retrieved" not in comfyui.log()
