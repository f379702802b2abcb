"""DiT and SiT read from their published state dicts, and DiT from diffusers: the same numbers, sizes and samples."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.control.guidance import Guided
from score_sde.models import DiT, Given
from score_sde.models.pretrained.diffusers import image_units, load_pipeline, rungs
from score_sde.models.pretrained.diffusers_dit import from_transformer
from score_sde.models.pretrained.dit import dit_model, from_reference_dit, read_reference_dit, sit_model
from score_sde.solvers import get_solver
from tests.models.pretrained.published_dit import CASES, CLASSES, asked, published

diffusers = pytest.importorskip("diffusers")

REFERENCE = json.loads((Path(__file__).parent / "reference" / "dit.json").read_text(encoding="utf-8"))


def read(name: str) -> DiT:
    case = CASES[name]
    return from_reference_dit(published(**case), case["heads"], bool(case["class_dropout"]))


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_published_networks_return_the_published_numbers(name: str) -> None:
    """The reference is of float64; to a part of 1e-5, and to three times what float32 changes there."""
    network, known = read(name), REFERENCE["values"][name]
    x, labels, classes = asked(name.startswith("SiT"))
    for told, key in [(Condition({"class": classes}), "values"), (None, "hidden")]:
        if known[key] is None:
            with pytest.raises(UserError, match="trained with every class told"):
                network(x, labels, told)
            continue
        output = network(x, labels, told)
        # SiT's code drops the second half of what its network makes.
        output = output[:, : known["shape"][1]]
        error = (output.flatten()[::37].double() - torch.tensor(known[key], dtype=torch.float64)).abs().max().item()
        assert error <= 1e-5
        assert error <= 3 * known["rounding_largest"]


def test_published_sizes_have_as_many_weights() -> None:
    sizes = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}
    for name, expected in REFERENCE["parameters"].items():
        size, patch = name.removeprefix("DiT-").split("/")
        width, num_blocks, num_heads = sizes[size]
        with torch.device("meta"):
            network = DiT(
                32,
                4,
                8,
                width=width,
                num_blocks=num_blocks,
                num_heads=num_heads,
                patch_size=int(patch),
                conditions={"class": 1000},
            )
        assert sum(weight.numel() for weight in network.parameters()) == expected


@torch.no_grad()
def test_a_published_dit_is_a_score_model_of_latents() -> None:
    """The rungs are DDPM's, and the first half of what it makes is the noise."""
    model: Any = dit_model(read("DiT 2"))
    x, labels, classes = asked(False)
    told = Condition({"class": classes})
    torch.testing.assert_close(
        model.noise(x, model.sde.time(labels), told), model.network.network(x, labels, told)[:, :4], rtol=0, atol=1e-4
    )
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    torch.testing.assert_close(model.sde.alpha(model.sde.time(torch.tensor(999))) ** 2, (1 - betas).prod())


@torch.no_grad()
def test_a_published_sit_is_sampled_as_its_code_does() -> None:
    """Euler's method on `dx/dt = network(x, t)`, from noise at its time 0 to data at 1, is our DDIM."""
    network = read(next(name for name in CASES if name.startswith("SiT")))
    x, _, classes = asked(True)
    told = Condition({"class": classes})
    ours = get_solver("ddim", grid=[1.0, 0.8, 0.6, 0.4, 0.2])(Given(sit_model(network), told), x).x
    for step in range(5):
        x = x + 0.2 * network(x, torch.full((len(x),), 0.2 * step), told)[:, :4]
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-5 * float(x.abs().max()))


def test_files_of_the_published_code(tmp_path: Path) -> None:
    """Weights alone, or a checkpoint of training, whose average counts; what is wrong with them is said in one line."""
    weights, heads = published(**CASES["DiT 4"]), CASES["DiT 4"]["heads"]
    torch.save(weights, tmp_path / "weights.pt")
    torch.save({"ema": weights, "model": {}, "opt": {}}, tmp_path / "training.pt")
    expected = from_reference_dit(weights, heads).state_dict()
    for name in ("weights.pt", "training.pt"):
        found = read_reference_dit(tmp_path / name, heads).state_dict()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    other: dict[str, tuple[dict[str, Tensor | None], str]] = {
        "no pos_embed": ({"pos_embed": None}, "it has no pos_embed"),
        "of another shape": ({"x_embedder.proj.weight": torch.ones(3, 3)}, r"x_embedder.proj.weight is \(3, 3\)"),
        "no blocks.1.attn.qkv.bias": ({"blocks.1.attn.qkv.bias": None}, "it has no blocks.1.attn.qkv.bias"),
        "a block of another shape": (
            {"blocks.1.attn.qkv.bias": torch.ones(7)},
            r"query_key_value.bias has shape \(7,\)",
        ),
        "a weight more": ({"style": torch.ones(2)}, "it has style, which the network lacks"),
        "NaN": ({"x_embedder.proj.bias": torch.full((144,), torch.nan)}, "input.bias is NaN"),
        "other places": ({"pos_embed": 2 * weights["pos_embed"]}, "other places of patches"),
    }
    for changed, message in other.values():
        wrong = {name: tensor for name, tensor in (weights | changed).items() if tensor is not None}
        with pytest.raises(UserError, match=message) as error:
            from_reference_dit(wrong, heads, where="a.pt")
        assert str(error.value).startswith("a.pt")
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="of width 144, which is not published: say num_heads"):
        from_reference_dit(weights)
    (tmp_path / "weights.pt").write_bytes(b"<html>")
    with pytest.raises(UserError, match="a web page"):
        read_reference_dit(tmp_path / "weights.pt")


def theirs(**changes: Any) -> Any:
    """Make a small `DiTTransformer2DModel` whose weights are all random, blocks' embeddings each its own."""
    settings = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 2,
        "sample_size": 8,
        "out_channels": 8,
        "num_embeds_ada_norm": CLASSES,
    }
    torch.manual_seed(0)
    network = diffusers.DiTTransformer2DModel(**(settings | changes))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            bias = 0.1 * torch.randn_like(weight) + float("norm3.weight" in name)
            weight.copy_(torch.randn_like(weight) * weight[0].numel() ** -0.5 if weight.ndim > 1 else bias)
    return network.eval()


def share_embeddings(network: Any) -> Any:
    for block in network.transformer_blocks:
        block.norm1.emb = network.transformer_blocks[0].norm1.emb
    return network


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"patch_size": 4, "out_channels": None},
        {"patch_size": 8, "attention_head_dim": 72, "norm_eps": 1e-3},
        {"attention_bias": False, "norm_elementwise_affine": True, "sample_size": 16},
    ],
    ids=str,
)
@pytest.mark.parametrize("alike", [False, True])
@torch.no_grad()
def test_networks_of_diffusers_return_the_same_numbers(changes: dict[str, Any], alike: bool) -> None:
    original = share_embeddings(theirs(**changes)) if alike else theirs(**changes)
    network = from_transformer(dict(original.config), original.state_dict())
    assert len(network.embeddings) == (1 if alike else 2)
    size = original.config.sample_size
    x = torch.randn(3, 4, size, size, generator=torch.Generator().manual_seed(1))
    labels, classes = torch.tensor([0.0, 333.25, 999.0]), torch.tensor([0, 7, CLASSES])
    in_float32 = original(x, labels, classes).sample
    exact = original.double()(x.double(), labels, classes).sample
    found = network(x, labels, Condition({"class": classes}, {"class": classes == CLASSES}))
    error, rounding = ((one - exact).abs().max().item() for one in (found, in_float32))
    assert error <= 1e-5
    assert error <= 3 * rounding


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    """Save a pipeline of 1000 classes, as theirs has the number of the hidden class built in."""
    vae = diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=4)
    scheduler = diffusers.DDIMScheduler(timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True)
    transformer = theirs(num_embeds_ada_norm=1000)
    place = tmp_path_factory.mktemp("dit")
    diffusers.DiTPipeline(transformer, vae, scheduler, {0: "a fish"}).save_pretrained(place)
    return place


@pytest.mark.parametrize("scale", [1.0, 4.0])
@torch.no_grad()
def test_a_pipeline_samples_here_as_there(folder: Path, scale: float) -> None:
    """Latents of ten steps of DDIM, with and without guidance, from the same noise."""
    pipeline, made = diffusers.DiTPipeline.from_pretrained(folder), []
    pipeline.set_progress_bar_config(disable=True)

    def keep(latents: Tensor) -> Any:
        made.append(latents * pipeline.vae.config.scaling_factor)
        return SimpleNamespace(sample=latents)

    pipeline.vae.decode = keep
    classes = [3, 998]
    generator = torch.Generator().manual_seed(5)
    pipeline(classes, scale, generator, num_inference_steps=10, output_type="np")
    x_T = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    model = load_pipeline(folder)
    given: Any = Given(model, Condition({"class": torch.tensor(classes)}))
    guided = given if scale == 1 else Guided(given, model, scale)
    grid = rungs(model, pipeline.scheduler.timesteps)
    found = get_solver("ddim", num_steps=10, grid=grid)(guided, x_T)
    assert found.nfe == 10
    assert (found.x - made[0]).norm() <= 1e-5 * made[0].norm()


def test_pipelines_that_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="makes latents, and its autoencoder"):
        image_units(load_pipeline(folder))
    for name, (file, change, message) in {
        "gelu": ("transformer/config.json", {"activation_fn": "geglu"}, "has activation_fn='geglu'"),
        "novel": ("transformer/config.json", {"rotary": True}, "has rotary=True"),
        "odd": ("transformer/config.json", {"patch_size": 3}, "sample_size of 8, in patches of 3"),
        "word": ("transformer/config.json", {"num_layers": "two"}, "has num_layers='two', which must be a number"),
        "deep": ("transformer/config.json", {"num_layers": 3}, "it has no transformer_blocks.2"),
        "old": ("transformer/config.json", {"_class_name": "UNet2DModel"}, "is not of a DiTTransformer2DModel, but"),
        "part": ("model_index.json", {"safety": ["diffusers", "Checker"]}, "with safety, too"),
        "flux": ("model_index.json", {"transformer": ["diffusers", "Flux"]}, "its transformer is .*Flux"),
    }.items():
        place = tmp_path / name
        shutil.copytree(folder, place)
        settings = json.loads((place / file).read_text(encoding="utf-8"))
        (place / file).write_text(json.dumps(settings | change), encoding="utf-8")
        with pytest.raises(UserError, match=message) as error:
            load_pipeline(place)
        assert "\n" not in str(error.value)
