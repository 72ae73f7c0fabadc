"""What the extension does to a real WebUI's weights; `WEBUI_DIR=... pytest` (see hosts.py).

WEBUI_CHECKPOINT names a checkpoint to use instead of the reference base, such as one of SDXL.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hosts
import numpy as np
import pytest
import torch
import webui_hosts
from adapters import random_adapter
from full_size import VISIBLE, FullSize, Scene, check_same, difference, write_for, write_lora
from hosts import HostFailed, Server
from PIL import Image
from safetensors.torch import save_file
from webui_hosts import SECOND

import shira_core as shira
from a1111_extension import tag as tags
from shira_core.rows import Row

pytestmark = hosts.needs("WEBUI_DIR")
TAG = "<shira:wide:1>"
LORA = "<lora:random:1>"
CONVERTED = "<lora:converted:1>"
OWN = os.environ.get("WEBUI_CHECKPOINT")
# By case alone other than another; what a prompt would take for something else.
ODD = ("Wide", "WIDE", "Größe \u732b", "two  words", "(a:1.2) [b]", "x, AND y", "-0.5", "50%3A")
MANY = 50
EXPLODE = "explode now"
PROBES = ("webui_probe.py", "webui_weights_probe.py")
SHORT = Scene(steps=2, size=64)


@dataclass
class Drawn:
    """A picture, and what its infotext and job say."""

    picture: np.ndarray
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The infotext."""
        return str(self.info["infotexts"][0])


class WebUI:
    """A running WebUI that draws the scene with one checkpoint."""

    def __init__(self, server: Server, kind: str, files: FullSize) -> None:
        self.server, self.kind, self.files = server, kind, files

    def draw(self, tags: str = "", **given: Any) -> Drawn:
        """Draw the scene with tags in its prompt."""
        payload = {
            "prompt": SHORT.prompt + tags,
            "negative_prompt": SHORT.negative,
            "seed": SHORT.seed,
            "steps": SHORT.steps,
            "cfg_scale": SHORT.guidance,
            "sampler_name": "Euler",
            "width": SHORT.size,
            "height": SHORT.size,
        }
        answer = self.server.ask("/sdapi/v1/txt2img", payload | given, hosts.DRAW_SECONDS)
        picture = Image.open(io.BytesIO(base64.b64decode(answer["images"][0])))
        return Drawn(np.asarray(picture.convert("RGB")), json.loads(answer["info"]))

    def draw_baked(self) -> Drawn:
        """Draw with the checkpoint that the adapter is baked into, and go back to the other."""
        webui_hosts.use(self.server, self.files.styled)
        drawn = self.draw()
        webui_hosts.use(self.server, self.files.plain)
        return drawn

    def weights(self) -> dict[str, str]:
        """Return the hash of every weight."""
        found: dict[str, str] = self.server.ask("/test/weights", seconds=hosts.DRAW_SECONDS)
        return found

    def check_clean(self, base: dict[str, str]) -> None:
        """Fail unless the model holds what it held; forks give it back before the next picture."""
        if self.kind != "a1111":
            self.draw()
        now = self.weights()
        assert [name for name in base if now.get(name) != base[name]] == []


@pytest.fixture(scope="module")
def files(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FullSize]:
    if not OWN:
        yield request.getfixturevalue("full_size")
        return
    folder = tmp_path_factory.mktemp("own")
    yield write_for(Path(OWN), folder)
    shutil.rmtree(folder)  # it is as large as the checkpoint


@pytest.fixture(scope="module")
def webui(files: FullSize, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    found, data = webui_hosts.checkout(), tmp_path_factory.mktemp("webui")
    write_files(data / "models", files)
    with webui_hosts.serving(found, data, files.plain.parent, probes=PROBES) as server:
        webui_hosts.use(server, files.plain)
        yield WebUI(server, webui_hosts.kind_of(found.folder), files)


def write_files(models: Path, files: FullSize) -> None:
    """Put adapters and a LoRA where the WebUI looks for them."""
    for folder in ("shira", "Lora"):
        (models / folder).mkdir(parents=True)
    shutil.copy(files.wide, models / "shira" / "wide.shira")
    wrong = {"model.diffusion_model.input_blocks.1.1.proj_in.weight": (640, 640)}
    random_adapter(wrong, 0, density=0.01).save(models / "shira" / "wrong.shira")
    (models / "shira" / "broken.shira").write_bytes(b"no adapter")
    for name in ("case", *many()):
        (models / "shira" / f"{name}.shira").hardlink_to(models / "shira" / "wide.shira")
    shira.mix([(shira.load(files.wide), -1)]).save(models / "shira" / "Case.shira")
    if not OWN:
        write_lora(files.wide, models / "Lora" / "converted.safetensors")
    generator = torch.Generator().manual_seed(0)
    lora = {}
    for block, width in ((1, 320), (4, 640)):
        for part in ("to_q", "to_v", "to_out_0"):
            layer = f"lora_unet_input_blocks_{block}_1_transformer_blocks_0_attn1_{part}"
            for end, shape in (("up", (width, 4)), ("down", (4, width))):
                lora[f"{layer}.lora_{end}.weight"] = torch.randn(shape, generator=generator) * 0.3
    save_file(lora, str(models / "Lora" / "random.safetensors"))


def many() -> list[str]:
    """Return names of files, the odd ones among them."""
    return [*ODD, *(f"style {number}" for number in range(MANY - len(ODD)))]


@pytest.fixture(scope="module")
def plain(webui: WebUI) -> Drawn:
    """The picture without anything, drawn before anything else."""
    return webui.draw()


@pytest.fixture(scope="module")
def base(webui: WebUI, plain: Drawn) -> dict[str, str]:
    """The hashes of the weights before any tag."""
    return webui.weights()


@pytest.fixture(scope="module")
def tagged(webui: WebUI, base: dict[str, str]) -> Drawn:
    return webui.draw(TAG)


@pytest.fixture(autouse=True)
def clean(webui: WebUI, base: dict[str, str]) -> Iterator[None]:
    yield
    webui.check_clean(base)


def test_the_base_is_drawn_again_afterwards(webui: WebUI, plain: Drawn, tagged: Drawn) -> None:
    assert np.array_equal(webui.draw().picture, plain.picture)
    assert np.array_equal(webui.draw(TAG).picture, tagged.picture)


def test_a_tag_in_the_second_pass_only(webui: WebUI, base: dict[str, str]) -> None:
    size = {"hr_scale": 1.0, "hr_upscaler": "Latent", "denoising_strength": 0.6}
    second = {"enable_hr": True, **size, **SECOND[webui.kind]}
    without = webui.draw(**second)
    with_tag = webui.draw(**second, hr_prompt=SHORT.prompt + TAG)
    both = webui.draw(TAG, **second)
    assert difference(without.picture, with_tag.picture)["mean"] > VISIBLE / 2
    assert difference(both.picture, with_tag.picture)["mean"] > VISIBLE / 2


def test_together_with_a_lora_in_both_orders(
    webui: WebUI, plain: Drawn, tagged: Drawn, base: dict[str, str]
) -> None:
    lora = webui.draw(LORA)
    assert difference(lora.picture, plain.picture)["mean"] > VISIBLE / 2
    both = webui.draw(LORA + TAG)
    assert difference(both.picture, lora.picture)["mean"] > VISIBLE / 2
    assert difference(both.picture, tagged.picture)["mean"] > VISIBLE / 4
    assert np.array_equal(webui.draw(TAG).picture, tagged.picture)
    assert np.array_equal(webui.draw(TAG + LORA).picture, both.picture)
    assert np.array_equal(webui.draw(LORA).picture, lora.picture)
    assert np.array_equal(webui.draw().picture, plain.picture)


def test_a_job_that_fails(webui: WebUI, plain: Drawn, base: dict[str, str]) -> None:
    with pytest.raises(HostFailed, match=EXPLODE):
        webui.draw(f"{TAG} {EXPLODE}")
    webui.check_clean(base)
    assert np.array_equal(webui.draw().picture, plain.picture)


@pytest.mark.parametrize("tag", ["wrong:1", "broken:1", "none:1", "wide:abc", "../wide:1"])
def test_what_is_wrong_is_in_the_infotext(webui: WebUI, plain: Drawn, tag: str) -> None:
    drawn = webui.draw(f"{TAG}<shira:{tag}>")
    assert "SHiRA error" in drawn.text
    assert np.array_equal(drawn.picture, plain.picture)


def test_entries_for_a_part_of_the_run(webui: WebUI, plain: Drawn, tagged: Drawn) -> None:
    drawn = webui.draw("<shira:wide:1:te=0:start=0.5>")
    assert "SHiRA error" not in drawn.text
    assert difference(drawn.picture, plain.picture)["mean"] > VISIBLE / 4
    assert difference(drawn.picture, tagged.picture)["mean"] > VISIBLE / 4
    assert np.array_equal(webui.draw("<shira:wide:1:stop=0.999>").picture, tagged.picture)


def test_rows_of_the_accordion_draw_as_tags_do(webui: WebUI, tagged: Drawn) -> None:
    rows = [{"name": "wide.shira", "alpha": 1.0}]
    drawn = webui.draw(alwayson_scripts={"SHiRA": {"args": [rows]}})
    assert np.array_equal(drawn.picture, tagged.picture)


def test_fifty_adapters_with_odd_names_add_up(webui: WebUI, tagged: Drawn) -> None:
    drawn = webui.draw("".join(tags.write(tags.Tag(Row(name, alpha=1 / MANY))) for name in many()))
    assert "SHiRA error" not in drawn.text
    check_same(drawn.picture, tagged.picture)


def test_two_tags_of_a_file_add_up(webui: WebUI, tagged: Drawn) -> None:
    drawn = webui.draw("<shira:wide:0.75><shira:wide:0.25>")
    assert np.array_equal(drawn.picture, tagged.picture)


def test_names_that_differ_by_case_are_two_files(webui: WebUI, plain: Drawn) -> None:
    assert np.array_equal(webui.draw("<shira:case:1><shira:Case:1>").picture, plain.picture)
    missing = webui.draw("<shira:cASE:1>")
    assert "'cASE.shira' is not in models/shira" in missing.text
    assert np.array_equal(missing.picture, plain.picture)


@pytest.mark.skipif(bool(OWN), reason="no LoRA holds a random adapter")
def test_a_lora_that_was_converted_draws_what_the_adapter_draws(
    webui: WebUI, plain: Drawn, tagged: Drawn
) -> None:
    check_same(webui.draw(CONVERTED).picture, tagged.picture)
    assert np.array_equal(webui.draw().picture, plain.picture)


# ---- last: with 8-bit weights, pictures after another checkpoint differ by rounding ----
def test_a_tag_draws_what_the_baked_checkpoint_draws(
    webui: WebUI, plain: Drawn, tagged: Drawn
) -> None:
    check_same(tagged.picture, webui.draw_baked().picture)
    assert difference(tagged.picture, plain.picture)["mean"] > VISIBLE
    assert "SHiRA error" not in tagged.text
    assert "<shira:wide:1>" in tagged.text


def test_another_checkpoint_in_the_middle_of_a_run(webui: WebUI, plain: Drawn) -> None:
    refined = webui.draw(TAG, refiner_checkpoint=webui.files.styled.name, refiner_switch_at=0.5)
    assert "SHiRA error" not in refined.text
    check_same(webui.draw().picture, plain.picture)


def test_checkpoints_back_and_forth(webui: WebUI, plain: Drawn, tagged: Drawn) -> None:
    other = {"override_settings": {"sd_model_checkpoint": webui.files.styled.name}}
    styled = webui.draw(**other)  # the job's own checkpoint; the first one is loaded again after it
    both = webui.draw(TAG, **other)
    assert difference(both.picture, styled.picture)["mean"] > VISIBLE / 2
    check_same(webui.draw(TAG).picture, tagged.picture)
    check_same(webui.draw(TAG, **other).picture, both.picture)
    check_same(webui.draw(**other).picture, styled.picture)
    check_same(webui.draw().picture, plain.picture)
