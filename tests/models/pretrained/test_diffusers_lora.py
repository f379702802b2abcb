"""Low-rank changes, as the library and peft save them: networks and encoders become those that the library makes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.models.pretrained.latent_pipelines import LatentPipeline, load_latent_pipeline

pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

from tests.models.pretrained.tiny_pipelines import (  # noqa: E402
    LADDER,
    latents,
    relative,
    stable_diffusion,
    stable_diffusion_3,
    stable_diffusion_xl,
)

PROMPTS, SCALE = ["a cat, red", "two dogs"], 0.5
# Parts whose weights are one here with others, are turned round, or have a kernel.
OF_TRANSFORMER = [
    *(f"attn.{name}" for name in ("to_q", "to_v", "add_k_proj", "to_out.0")),
    *("norm1.linear", "norm1_context.linear", "norm_out.linear", "ff.net.0.proj", "proj_out", "pos_embed.proj"),
]
FILE = "pytorch_lora_weights.safetensors"
OF_TEXTS = ["q_proj", "fc1"]
LADDERED = diffusers.DDIMScheduler(**LADDER, clip_sample=False)
KINDS: dict[str, tuple[Callable[..., Any], Any, list[str]]] = {
    "unet": (stable_diffusion, LADDERED, ["to_q", "to_out.0", "conv_in"]),
    "unet, XL": (stable_diffusion_xl, LADDERED, ["to_q", "to_out.0", "conv_in"]),
    "transformer": (stable_diffusion_3, diffusers.FlowMatchEulerDiscreteScheduler(), OF_TRANSFORMER),
}


def change(network: Any, targets: list[str], stabilised: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Change a network by peft, by half; return the whole changes, of random weights, and what is said of them."""
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=targets, use_rslora=stabilised)
    with warnings.catch_warnings():
        # Of transformers, about what peft asks it.
        warnings.simplefilter("ignore", FutureWarning)
        model = peft.get_peft_model(network, config)
    generator = torch.Generator().manual_seed(len(targets))
    weights = peft.get_peft_model_state_dict(model)
    weights = {name: 0.3 * torch.randn(weight.shape, generator=generator) for name, weight in weights.items()}
    peft.set_peft_model_state_dict(model, weights)
    for module in model.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.scale_layer(SCALE)
    model.merge_and_unload()
    return {name.removeprefix("base_model.model."): weight for name, weight in weights.items()}, config.to_dict()


def told(pipeline: LatentPipeline) -> Condition:
    assert pipeline.prompts is not None
    return Condition(pipeline.prompts.read(PROMPTS))


@torch.no_grad()
def output(pipeline: LatentPipeline) -> torch.Tensor:
    return pipeline.model.denoise(latents().float(), torch.tensor(0.6), told(pipeline))


@pytest.mark.parametrize("stabilised", [False, True], ids=["", "rank-stabilised"])
@pytest.mark.parametrize("name", KINDS)
def test_pipelines_with_changes_are_theirs(name: str, stabilised: bool, tmp_path: Path) -> None:
    """The library saves and loads those of the denoiser, and adds them; peft adds those of encoders."""
    make, scheduler, targets = KINDS[name]
    theirs = make(tmp_path / "plain", scheduler).to(torch.float32)
    part = name.split(",")[0]
    texts = ["text_encoder"] if name == "unet" else ["text_encoder", "text_encoder_2"]
    weights, about = change(copy.deepcopy(getattr(theirs, part)), targets, stabilised)
    of_part = {f"{part}_lora_layers": weights, f"{part}_lora_adapter_metadata": about}
    of_texts: dict[str, Any] = {}
    for each in texts:
        weights, about = change(getattr(theirs, each), OF_TEXTS, stabilised)
        of_texts |= {f"{each}_lora_layers": weights, f"{each}_lora_adapter_metadata": about}
    theirs.save_lora_weights(tmp_path / "part", **of_part)
    theirs.save_lora_weights(tmp_path / "whole", **of_part, **of_texts)
    theirs.load_lora_weights(tmp_path / "part", weight_name=FILE)
    theirs.fuse_lora(components=[part], lora_scale=SCALE)
    theirs.unload_lora_weights()
    theirs.save_pretrained(tmp_path / "changed")

    plain, expected = (load_latent_pipeline(tmp_path / each) for each in ("plain", "changed"))
    before, wanted_output = output(plain), output(expected)
    plain.add_low_rank_changes(tmp_path / "whole" / FILE, SCALE)
    for one, other in zip(told(plain).values.values(), told(expected).values.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert relative(output(plain), wanted_output) < 1e-5
    assert relative(before, wanted_output) > 0.01


@pytest.mark.parametrize("make", [stable_diffusion, stable_diffusion_xl])
def test_names_and_scales_of_kohya(make: Callable[..., Any], tmp_path: Path) -> None:
    """Each weight gets the formula's change: half of a scale, and `a` of a half of the rank."""
    make(tmp_path, LADDERED)
    before, after = (load_latent_pipeline(tmp_path) for _ in range(2))
    unet: Any = before.model.network.unet
    networks: dict[str, tuple[Any, tuple[str, ...]]] = {
        "lora_unet_": (unet, ("attn1.to_q", "attn2.to_out.0", "ff.net.0.proj", "conv_in"))
    }
    names = ["lora_te_"] if make is stable_diffusion else ["lora_te1_", "lora_te2_"]
    for name, text in zip(names, before.texts.values(), strict=True):
        networks[f"{name}text_model_"] = (text.encoder, ("self_attn.q_proj", "self_attn.out_proj", "mlp.fc1"))
    generator = torch.Generator().manual_seed(0)
    file: dict[str, torch.Tensor] = {}
    expected: dict[tuple[str, str], torch.Tensor] = {}
    for prefix, (network, ends) in networks.items():
        for place, module in network.named_modules():
            if place.endswith(ends):
                name = prefix + place.removeprefix("text_model.").replace(".", "_")
                down = torch.randn(2, *module.weight.shape[1:], generator=generator)
                up = torch.randn(len(module.weight), 2, *(1,) * (down.ndim - 2), generator=generator)
                file |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
                file[f"{name}.alpha"] = torch.tensor(1.0)
                expected[prefix, place] = module.weight + 0.25 * torch.einsum("or,r...->o...", up.flatten(1), down)
    save_file(file, tmp_path / FILE)
    after.add_low_rank_changes(tmp_path / FILE, SCALE)
    assert len(expected) > 6
    there: Any = (after.model.network.unet, *(text.encoder for text in after.texts.values()))
    changed = dict(zip(networks, there, strict=True))
    for (prefix, place), weight in expected.items():
        torch.testing.assert_close(changed[prefix].get_parameter(f"{place}.weight"), weight)
    for prefix, (network, _) in networks.items():
        for name, weight in network.named_parameters():
            if (prefix, name.removesuffix(".weight")) not in expected:
                assert torch.equal(changed[prefix].get_parameter(name), weight)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: Any) -> LatentPipeline:
    place = tmp_path_factory.mktemp("sd3")
    stable_diffusion_3(place, diffusers.FlowMatchEulerDiscreteScheduler())
    return load_latent_pipeline(place)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"transformer.x.lora_A": (1, 2), "transformer.x.lora_B": (2, 1)},
            "changes transformer.x, which this pipeline",
        ),
        (
            {"transformer.proj_out.lora_A": (1, 2), "transformer.proj_out.lora_B": (2, 1)},
            "changes transformer.output of shape (2, 2), and here it has (16, 16)",
        ),
        (
            {"transformer.proj_out.lora_A": (1, 2), "transformer.proj_out.lora_magnitude_vector": (2, 1)},
            "has transformer.proj_out.lora_A.weight, and no",
        ),
        ({"unet.conv_in.lora_A": (1, 2), "unet.conv_in.lora_B": (2, 1)}, "changes unet.conv_in, which this pipeline"),
        ({"transformer.proj_out.dora_scale": (2,)}, "of weights by size and direction (DoRA), which is not known here"),
        ({"transformer.proj_out.alpha": (1,)}, "holds transformer.proj_out.alpha.weight, which is no low-rank change"),
    ],
)
def test_other_changes_are_refused(
    content: dict[str, Any], said: str, pipeline: LatentPipeline, tmp_path: Path
) -> None:
    before = output(pipeline)
    path = tmp_path / "wrong.safetensors"
    save_file({f"{name}.weight": torch.ones(shape) for name, shape in content.items()}, path)
    with pytest.raises(UserError) as error:
        pipeline.add_low_rank_changes(path, 1.0)
    assert "\n" not in str(error.value)
    assert said in str(error.value)
    assert torch.equal(output(pipeline), before)
