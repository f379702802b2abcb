"""Whole pipelines of diffusers, from Python and by the command line: our solvers' pictures on their networks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import score_sde
from score_sde.common import distributed
from score_sde.common.condition import Condition
from score_sde.common.errors import UserError
from score_sde.control import Guided, noised
from score_sde.experiment import pipelines
from score_sde.experiment.comparison import asked_in_turn
from score_sde.experiment.pipeline_run import PipelineRun
from score_sde.models import Given
from score_sde.models.given import InTurn
from score_sde.solvers import get_solver, log_likelihood
from score_sde.solvers.fast.default import recommended
from score_sde.solvers.fast.tuned import save_tables, weights_digest
from tests.experiment.test_checkpoints import complaint, run

pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")

from tests.models.pretrained import tiny_pipelines as tiny  # noqa: E402

PROMPTS = ["a cat", "two dogs"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    place = tmp_path_factory.mktemp("pipelines") / "sd"
    tiny.stable_diffusion(place, diffusers.PNDMScheduler(**tiny.LADDER, skip_prk_steps=True))
    return place


@pytest.fixture(scope="module", name="loaded")
def loaded_pipeline(folder: Path) -> PipelineRun:
    opened = score_sde.load(folder)
    assert isinstance(opened, PipelineRun)
    return opened


def told(opened: PipelineRun, texts: list[str]) -> Condition:
    assert opened.pipeline.prompts is not None
    return Condition(opened.pipeline.prompts.read(texts))


def prior(opened: PipelineRun, shape: tuple[int, ...], seeds: list[int]) -> torch.Tensor:
    return opened.model.sde.prior_sample(shape, seeds=seeds, device=distributed.device())


def test_samples_are_the_solver_s_on_the_guided_network(loaded: PipelineRun) -> None:
    options: dict[str, Any] = {"solver": "dpmpp_2m", "num_steps": 4, "guidance": 5.0, "seed": 7}
    found = loaded.sample(prompt=PROMPTS, negative_prompt="bad", latents=True, **options)
    model, away = (Given(loaded.model, told(loaded, texts)) for texts in (PROMPTS, ["bad", "bad"]))
    x_T = prior(loaded, (2, 4, 8, 8), [7, 8])
    with torch.no_grad():
        expected = get_solver("dpmpp_2m", num_steps=4)(Guided(model, away, 5.0), x_T).x.cpu()
    np.testing.assert_array_equal(found, expected)
    asked = loaded.asked(2, prompt=PROMPTS, negative_prompt="bad", guidance=5)
    with torch.no_grad():
        np.testing.assert_array_equal(found, get_solver("dpmpp_2m", num_steps=4)(asked, x_T).x.cpu())
    pictures = loaded.sample(prompt=PROMPTS, negative_prompt="bad", **options)
    np.testing.assert_array_equal(pictures, loaded.decode(found))
    # One at a time, larger, and of anything.
    alone = loaded.sample(prompt=PROMPTS, latents=True, batch_size=1, negative_prompt="bad", **options)
    np.testing.assert_allclose(alone, found, rtol=1e-4, atol=1e-4 * np.abs(found).max())
    assert loaded.sample(prompt=PROMPTS, size=(16, 24), num_steps=2).shape == (2, 3, 16, 24)
    assert loaded.sample(1, num_steps=2).dtype == np.uint8


def test_the_command_line_draws_the_same(folder: Path, loaded: PipelineRun, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    keys = {"prompt": tmp_path / "prompts.txt", "guidance": 5, "num_samples": 2, "num_steps": 3, "solver": "unipc"}
    asked = [f"--config.sampling.{key}={value}" for key, value in keys.items()]
    common = [f"--checkpoint={folder}", f"--workdir={tmp_path / 'run'}"]
    assert run("--mode=sample", *common, *asked) == 0
    assert "note" not in capsys.readouterr().err
    with np.load(tmp_path / "run" / "samples" / "unipc.npz") as file:
        drawn = file["images"]
    with np.load(tmp_path / "run" / "samples" / "unipc_latents.npz") as file:
        latents = file["samples"]
    options: dict[str, Any] = {"guidance": 5.0, "num_steps": 3, "solver": "unipc"}
    np.testing.assert_array_equal(latents, loaded.sample(prompt=PROMPTS, latents=True, **options))
    np.testing.assert_array_equal(drawn.transpose(0, 3, 1, 2), loaded.sample(prompt=PROMPTS, **options))
    for wrong, said in {
        "--config.data.image_size=15": "pictures of 15 x 15 have no latents: both must be multiples of 2",
        "--config.sampling.guidance=nan": "must lie between",
        "--config.sampling.labels=1": "has no classes",
    }.items():
        assert said in complaint(capsys, "--mode=sample", *common, *asked, wrong)
    assert "give a file of them" in complaint(capsys, "--mode=likelihood", *common)


def test_half_precision_is_near(folder: Path, loaded: PipelineRun) -> None:
    """Eight bits of weights and features; latents, and all between calls, remain float32."""
    options: dict[str, Any] = {"num_steps": 2, "solver": "ddim", "latents": True}
    half = score_sde.load(folder, settings={"model.precision": "bfloat16"})
    assert isinstance(half, PipelineRun)
    assert {weight.dtype for weight in half.pipeline.model.parameters()} == {torch.bfloat16}
    found, expected = (each.sample(prompt="a cat", **options) for each in (half, loaded))
    assert found.dtype == np.float32
    assert 1e-6 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
    assert half.sample(prompt="a cat", num_steps=2).shape == (1, 3, 16, 16)


@pytest.mark.usefixtures("on_cpu")
def test_parts_lie_in_main_memory_but_for_the_one_in_use(folder: Path, monkeypatch: Any) -> None:
    """The device `meta` stands for an accelerator: what is brought there is noted, and stays where it is."""
    there: list[Any] = []
    moves: list[str] = []
    move = torch.nn.Module.to

    def noted(module: Any, *args: Any, **options: Any) -> Any:
        device = next((str(each) for each in (*args, options.get("device")) if each in (meta, "cpu")), None)
        if device is None:
            return move(module, *args, **options)
        there[:] = [part for part in there if part is not module] + [module] * (device == "meta")
        moves.extend([names[module]] * (device == "meta"))
        return module

    loaded, meta = score_sde.load(folder), torch.device("meta")
    monkeypatch.setattr(pipelines, "distributed", SimpleNamespace(device=lambda: meta))
    opened = score_sde.load(folder, settings={"model.offload": "True"})
    assert isinstance(opened, PipelineRun)
    pipeline, used = opened.pipeline, []
    parts: dict[str, Any] = {"text": pipeline.texts["text_encoder"], "autoencoder": pipeline.autoencoder}
    parts |= {"network": pipeline.model.network}
    names = {part: name for name, part in parts.items()}
    monkeypatch.setattr(torch.nn.Module, "to", noted)

    def use(name: str) -> Any:
        return lambda *_: used.append((name, [names[part] for part in there]))

    for name, inner in {"text": parts["text"].encoder, "network": pipeline.model.network.unet}.items():
        inner.register_forward_pre_hook(use(name))
    for inner in (pipeline.autoencoder.network.encoder, pipeline.autoencoder.network.decoder):
        inner.register_forward_pre_hook(use("autoencoder"))
    options: dict[str, Any] = {"negative_prompt": "bad", "guidance": 3, "num_steps": 2, "solver": "ddim"}
    flat: dict[str, Any] = {"method": "rk4", "num_steps": 1, "divergence": "hutchinson", "seed": 0}
    for do, order in {
        lambda run: run.sample(prompt=PROMPTS, **options): ["text", "network", "autoencoder"],
        lambda run: run.edit(run.sample(prompt="a", **options), prompt="b", **options): [
            *("text", "network", "autoencoder"),
            *("text", "network", "autoencoder"),
        ],
        lambda run: run.log_prob(0.5 * tiny.latents().float(), prompt="a", **flat): ["text", "network"],
    }.items():
        moves.clear()
        found = do(opened)
        assert moves == order
        np.testing.assert_array_equal(found, do(loaded))
    assert len(used) > 20
    assert all(lying == [name] for name, lying in used)


def test_edits_begin_at_noised_latents(loaded: PipelineRun) -> None:
    pictures = loaded.sample(prompt=PROMPTS, num_steps=2)
    z = torch.from_numpy(loaded.encode(pictures))
    model = Given(loaded.model, told(loaded, ["red", "red"]))
    until, x = noised(model, z.to(distributed.device()), 0.4, seeds=[3, 4])
    with torch.no_grad():
        expected = get_solver("ddim", num_steps=3)(until, x, seeds=[3, 4]).x.cpu()
    options: dict[str, Any] = {"strength": 0.4, "solver": "ddim", "num_steps": 3, "seed": 3}
    found = loaded.edit(pictures, prompt="red", latents=True, **options)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(loaded.edit(z.numpy(), prompt="red", latents=True, **options), expected)
    np.testing.assert_array_equal(loaded.edit(pictures, prompt="red", **options), loaded.decode(expected.numpy()))
    last_channels = pictures[0].transpose(1, 2, 0)
    np.testing.assert_array_equal(loaded.encode(last_channels), loaded.encode(pictures[:1])[0])


def test_densities_are_those_of_latents_given_the_prompt(loaded: PipelineRun) -> None:
    z = 0.5 * tiny.latents().float()
    options: dict[str, Any] = {"method": "rk4", "num_steps": 1, "divergence": "hutchinson"}
    model = Given(loaded.model, told(loaded, PROMPTS))
    expected = log_likelihood(model, z.to(distributed.device()), seeds=[3, 4], **options).log_prob.cpu()
    found = loaded.log_prob(z, prompt=PROMPTS, seed=3, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert loaded.log_prob(z[0], prompt=PROMPTS[0], seed=3, **options) == pytest.approx(found[0], rel=1e-5)


def test_solvers_are_compared_on_prompts_in_turn(loaded: PipelineRun, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    values = {"prompt": str(tmp_path / "prompts.txt"), "negative_prompt": "bad", "guidance": 4.0}
    compared = asked_in_turn(loaded._sampling(None, None, None, values))
    x, t = tiny.latents(3).float().to(distributed.device()), torch.tensor(0.6)
    asked = loaded.asked(3, prompt=[*PROMPTS, PROMPTS[0]], negative_prompt="bad", guidance=4)
    with torch.no_grad():
        torch.testing.assert_close(compared.denoise(x, t), asked.denoise(x, t), rtol=1e-5, atol=1e-5)


def test_a_model_that_is_asked_in_turn(loaded: PipelineRun) -> None:
    model = InTurn(Given(loaded.model, told(loaded, PROMPTS)), 2)
    x, t = tiny.latents(3).float().to(distributed.device()), torch.tensor(0.4)
    with torch.no_grad():
        found = model.denoise(x, t)
        expected = Given(loaded.model, told(loaded, [*PROMPTS, PROMPTS[0]])).denoise(x, t)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_what_is_asked_wrongly_is_said_in_one_line(loaded: PipelineRun) -> None:
    grey = np.zeros((2, 3, 16, 16), dtype=np.uint8)
    no_texts: Any = [3]
    for ask, said in [
        (lambda: loaded.sample(3, prompt=PROMPTS), "2 prompts for 3 samples: give one for all, or one for each"),
        (lambda: loaded.sample(prompt=[]), "0 prompts for 0 samples: give one for all, or one for each"),
        (lambda: loaded.sample(prompt=no_texts), "a prompt is a text, or one for each sample"),
        (lambda: loaded.sample(prompt="a", style=3), "style"),
        (lambda: loaded.sample(prompt="a", control=grey), "this pipeline is not told control: leave control= out"),
        (lambda: loaded.sample(prompt="a", size=15), "pictures of 15 x 15 have no latents"),
        (lambda: loaded.sample(prompt="a", solver="tuned", num_steps=3, guidance=9), "--mode tune"),
        (lambda: loaded.edit(grey, prompt="a", strength=2), "must lie between"),
        (lambda: loaded.encode(grey.astype(float)), "pictures are uint8 (N, 3, H, W), not torch.float64"),
        (lambda: loaded.encode(grey[:, :2]), "pictures are uint8 (N, 3, H, W), not (2, 2, 16, 16)"),
        (lambda: loaded.decode(np.zeros((2, 3, 8, 8))), "latents have shape (N, 4, h, w), not (2, 3, 8, 8)"),
        (lambda: loaded.log_prob(grey), "a density is one of latents, floats (N, C, h, w), not torch.uint8"),
    ]:
        with pytest.raises(UserError) as error:
            ask()
        assert "\n" not in str(error.value)
        assert said in str(error.value)


def test_tables_serve_other_prompts_and_no_other_guidance(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """A table is learned of some prompts; where there is none for the guidance, the line says how to learn one."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "sd")
    opened = score_sde.load(tmp_path / "sd")
    assert isinstance(opened, PipelineRun)
    path = opened.folder / "tuned" / "tuned_prompts_2.json"
    table = recommended(3).table(opened.model.sde)
    options: dict[str, Any] = {"solver": "tuned", "num_steps": 3, "latents": True}
    save_tables(path, {3: table}, opened.model.sde, model=weights_digest(opened.model))
    for prompt in PROMPTS:
        found = opened.sample(prompt=prompt, guidance=2.0, **options)
        x_T = prior(opened, (1, 4, 8, 8), [0])
        with torch.no_grad():
            expected = get_solver("tuned", table=table)(opened.asked(1, prompt=prompt, guidance=2.0), x_T).x.cpu()
        np.testing.assert_array_equal(found, expected)
    for wrong in ({"guidance": 3.0}, {"guidance": 2.0, "negative_prompt": "bad"}, {"guidance": 2.0, "num_steps": 4}):
        with pytest.raises(UserError) as error:
            opened.sample(prompt=PROMPTS[0], **{**options, **wrong})
        steps, guidance = wrong.get("num_steps", 3), wrong["guidance"]
        assert f"there is no table of {steps} steps for this guidance in" in str(error.value)
        assert f"--config.sampling.guidance={guidance:g} --config.tuning.num_steps={steps}" in str(error.value)
        assert "\n" not in str(error.value)
    with torch.no_grad():
        next(opened.model.parameters())[0] += 0.1
    with pytest.raises(UserError, match=r"tuned_prompts_2\.json was tuned to a model of other weights than this one's"):
        opened.sample(prompt=PROMPTS[0], guidance=2.0, **options)
    # Files of earlier versions do not say what they were tuned to.
    content = json.loads(path.read_text())
    del content["model"]
    path.write_text(json.dumps(content))
    by_table = opened.sample(prompt=PROMPTS[0], guidance=2.0, **{**options, "solver": get_solver("tuned", table=table)})
    np.testing.assert_array_equal(opened.sample(prompt=PROMPTS[0], guidance=2.0, **options), by_table)


def _without(name: str) -> Any:
    return lambda folder: shutil.rmtree(folder / name)


def _index(**changes: Any) -> Any:
    def change(folder: Path) -> None:
        path = folder / "model_index.json"
        parts = json.loads(path.read_text(encoding="utf-8")) | changes
        path.write_text(json.dumps(parts), encoding="utf-8")

    return change


def _pickled(part: str, name: str) -> Any:
    def change(folder: Path) -> None:
        (kept,) = (folder / part).glob("*.safetensors")
        kept.unlink()
        torch.save({"weight": torch.zeros(1)}, folder / part / name)

    return change


def _settings(part: str, **changes: Any) -> Any:
    def change(folder: Path) -> None:
        path = folder / part
        settings = json.loads(path.read_text(encoding="utf-8")) | changes
        path.write_text(json.dumps(settings), encoding="utf-8")

    return change


def _truncated(folder: Path) -> None:
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_without("vae"), "there is no"),
        (_without("text_encoder"), "there is no"),
        (_without("tokenizer"), "there is no"),
        (_without("scheduler"), "there is no"),
        (_index(text_encoder=None), "whose text_encoder is not there, and known is CLIPTextModel"),
        (
            _index(unet=["diffusers", "UNet3DConditionModel"]),
            "whose unet is diffusers.UNet3DConditionModel, and known is",
        ),
        (_index(adapter=["mine", "Adapter"]), "with a part adapter, which is not known here"),
        (_index(scheduler=["diffusers", "LCMScheduler"]), "LCMScheduler is for consistency models"),
        (_index(_class_name="FluxPipeline"), "is not a pipeline of a UNet2DModel, but FluxPipeline"),
        (
            _pickled("unet", "diffusion_pytorch_model.bin"),
            "diffusion_pytorch_model.bin, a pickle, and only .safetensors",
        ),
        (_pickled("text_encoder", "pytorch_model.bin"), "pytorch_model.bin, a pickle, and only .safetensors"),
        (_settings("unet/config.json", addition_embed_type="text_time"), "as in Stable Diffusion XL, not known here"),
        (_settings("unet/config.json", in_channels=6), "makes 4 channels of 6"),
        (_settings("unet/config.json", sample_size=None), "does not say how large its latents are"),
        (
            _settings("unet/config.json", style=3),
            "has style=3, which the UNet2DConditionModel of the installed diffusers",
        ),
        (_settings("vae/config.json", latent_channels=3), "vae"),
        (_settings("text_encoder/config.json", hidden_size=8), "is not of a CLIPTextModel"),
        (
            _settings("text_encoder/config.json", quantization_config={"quant_method": "bitsandbytes"}),
            "has a quantization_config, which is not read",
        ),
        (lambda folder: (folder / "text_encoder" / "adapter_config.json").write_text("{}"), "has an adapter"),
        (_truncated, "it is truncated, damaged, or not a checkpoint"),
    ],
)
def test_bad_folders_are_refused_in_one_line(spoil: Any, said: str, folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "bad"
    shutil.copytree(folder, place)
    spoil(place)
    with pytest.raises(UserError) as error:
        score_sde.load(place)
    assert "\n" not in str(error.value)
    assert str(place) in str(error.value)
    assert said in str(error.value)


@pytest.fixture(scope="module", name="xl_folder")
def folder_of_xl(tmp_path_factory: Any) -> Path:
    place = tmp_path_factory.mktemp("xl") / "xl"
    tiny.stable_diffusion_xl(place, diffusers.EulerDiscreteScheduler(**tiny.LADDER))
    return place


def test_two_encoders_and_sizes(xl_folder: Path) -> None:
    """Stable Diffusion XL is told the sizes of the pictures that are asked for, unless it is told others."""
    opened: Any = score_sde.load(xl_folder)
    options: dict[str, Any] = {"solver": "ddim", "num_steps": 2, "guidance": 4.0, "seed": 3}
    found = opened.sample(prompt=PROMPTS, size=(16, 20), latents=True, **options)
    sizes = torch.tensor([[16.0, 20.0, 0, 0, 16, 20]], device=distributed.device()).expand(2, -1)
    words = Condition({**told(opened, PROMPTS).values, "sizes": sizes})
    model = Guided(Given(opened.model, words), Given(opened.model, Condition({"sizes": sizes})), 4.0)
    x_T = prior(opened, (2, 4, 8, 10), [3, 4])
    with torch.no_grad():
        expected = get_solver("ddim", num_steps=2)(model, x_T).x.cpu()
    np.testing.assert_array_equal(found, expected)
    other = opened.sample(prompt=PROMPTS, latents=True, original_size=(8, 8), size=(16, 20), **options)
    assert np.abs(other - found).max() > 1e-3
    pictures = opened.decode(found)
    assert opened.edit(pictures, prompt=PROMPTS, num_steps=1, solver="ddim").shape == (2, 3, 16, 20)
    flat: dict[str, Any] = {"method": "rk4", "num_steps": 1, "divergence": "hutchinson"}
    z = torch.from_numpy(found).to(distributed.device())
    density = log_likelihood(Given(opened.model, words), z, seeds=[0, 1], **flat).log_prob.cpu()
    np.testing.assert_allclose(opened.log_prob(found, prompt=PROMPTS, seed=0, **flat), density, rtol=1e-5)
    with pytest.raises(UserError, match="target_size is two numbers of pixels, of height and width, not 16"):
        opened.sample(prompt=PROMPTS, target_size=16)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_index(text_encoder=None), "whose text_encoder is not there, and known is CLIPTextModel"),
        (
            _settings("unet/config.json", addition_embed_type=None),
            "has addition_embed_type=None, and Stable Diffusion XL's 'text_time'",
        ),
        (
            _settings("text_encoder_2/config.json", projection_dim=16),
            "is not of a CLIPTextModelWithProjection",
        ),
        (_settings("unet/config.json", addition_time_embed_dim=5), "is told 44 numbers of sizes and the whole prompt"),
        (_settings("vae/config.json", latents_mean=[0, 0, 0, 0]), "has latents_mean"),
        (_settings("unet/config.json", class_embed_type="timestep"), "it is told of classes, not known here"),
    ],
)
def test_other_pipelines_than_xl_are_refused(spoil: Any, said: str, xl_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(xl_folder, tmp_path / "bad")
    spoil(tmp_path / "bad")
    with pytest.raises(UserError) as error:
        score_sde.load(tmp_path / "bad")
    assert "\n" not in str(error.value)
    assert said in str(error.value)


def test_sizes_that_a_network_cannot_halve_are_refused(tmp_path: Path) -> None:
    """Latents of 8 x 10 are halved once; a network that is told prompts makes do with odd ones."""
    settings = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
    kinds = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = diffusers.UNet2DModel(sample_size=8, in_channels=4, out_channels=4, **settings, **kinds)
    pipeline = diffusers.LDMPipeline(tiny.autoencoder(), unet, diffusers.DDIMScheduler())
    pipeline.save_pretrained(tmp_path / "ldm")
    opened: Any = score_sde.load(tmp_path / "ldm")
    assert opened.sample(1, size=(16, 20), num_steps=1, latents=True).shape == (1, 4, 8, 10)
    with pytest.raises(UserError, match="pictures of 16 x 18 have no latents: both must be multiples of 4"):
        opened.sample(1, size=(16, 18), num_steps=1)
    with pytest.raises(UserError, match="pictures of 16 x 18 have no latents: both must be multiples of 4"):
        opened.log_prob(torch.zeros(1, 4, 8, 9))


def test_precision_is_for_pipelines(capsys: Any, tmp_path: Path) -> None:
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
    )
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    for key in ("model.precision=bfloat16", "model.offload=True"):
        line = complaint(capsys, "--mode=sample", f"--checkpoint={tmp_path / 'ddpm'}", f"--config.{key}")
        assert f"{key} is for pipelines of latents" in line


def low_rank(weights: dict[str, torch.Tensor], rank: int = 2) -> dict[str, torch.Tensor]:
    """Return changes of weights, by their places with the prefix of their network, under the library's names."""
    generator, made = torch.Generator().manual_seed(0), {}
    for place, weight in weights.items():
        made[f"{place}.lora_A.weight"] = 0.3 * torch.randn(rank, weight.shape[1], generator=generator)
        made[f"{place}.lora_B.weight"] = 0.3 * torch.randn(len(weight), rank, generator=generator)
    return made


@pytest.mark.usefixtures("on_cpu")
def test_low_rank_changes_are_added(folder: Path, tmp_path: Path) -> None:
    """The denoiser's output is the library's with peft; the encoder's weights are the formula's."""
    loaded: Any = score_sde.load(folder)
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    named = theirs.unet.named_modules()
    changes = low_rank(
        {f"unet.{place}": part.weight for place, part in named if place.endswith((".to_q", ".to_out.0"))}
    )
    (name, weight), *_ = [one for one in loaded.pipeline.texts.named_parameters() if one[0].endswith("q_proj.weight")]
    place = name.removeprefix("text_encoder.encoder.").removeprefix("text_model.").removesuffix(".weight")
    text = low_rank({f"text_encoder.text_model.{place}": weight})
    for file, content in {"both": changes | text, "unet": changes}.items():
        save_file(content, tmp_path / f"{file}.safetensors")
    theirs.load_lora_weights(changes)
    theirs.fuse_lora(lora_scale=0.5)

    def opened(file: str) -> PipelineRun:
        settings = {"model.lora": str(tmp_path / f"{file}.safetensors"), "model.lora_scale": "0.5"}
        changed = score_sde.load(folder, settings=settings)
        assert isinstance(changed, PipelineRun)
        return changed

    ours, both = opened("unet"), opened("both")
    x, rung, told_words = tiny.latents().float(), torch.tensor(400), told(loaded, PROMPTS)
    t = ours.model.sde.time(rung)
    with torch.no_grad():
        expected = theirs.unet(x, rung, encoder_hidden_states=told_words.values["caption"]).sample
        found, before = (run.model.noise(x, t, told_words) for run in (ours, loaded))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert tiny.relative(before, expected) > 0.01
    down, up = text.values()
    torch.testing.assert_close(both.pipeline.texts.get_parameter(name), weight + 0.5 * up @ down)
    # No words are heard as they are heard now.
    with torch.no_grad():
        torch.testing.assert_close(both.model.denoise(x, t), both.model.denoise(x, t, told(both, ["", ""])))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"unet.nowhere.lora_A": (1, 2), "unet.nowhere.lora_B": (2, 1)}, "changes unet.nowhere, which this pipeline"),
        ({"unet.conv_in.lora_A": (1, 2)}, "has unet.conv_in.lora_A.weight, and no unet.conv_in.lora_B.weight"),
        (
            {"unet.conv_in.lora_A": (1, 2), "unet.conv_in.lora_B": (2, 1)},
            "of shape (2, 2), and here it has (8, 4, 3, 3)",
        ),
        ({"style": (2,)}, "holds style.weight, which is no low-rank change"),
    ],
)
def test_other_changes_are_refused(content: dict[str, Any], said: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "wrong.safetensors"
    save_file({f"{name}.weight": torch.ones(shape) for name, shape in content.items()}, path)
    with pytest.raises(UserError) as error:
        score_sde.load(folder, settings={"model.lora": str(path)})
    assert "\n" not in str(error.value)
    assert said in str(error.value)


def test_what_a_pipeline_is_always_told_besides(tmp_path: Path, capsys: Any) -> None:
    """A picture that controls is told under the prompt and under what samples are led away from."""
    kind = diffusers.StableDiffusionControlNetPipeline
    tiny.stable_diffusion(
        tmp_path / "sd", diffusers.PNDMScheduler(**tiny.LADDER), kind=kind, controlnet=tiny.controlnet()
    )
    opened: Any = score_sde.load(tmp_path / "sd")
    control = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    options: dict[str, Any] = {"solver": "ddim", "num_steps": 2, "guidance": 4.0, "negative_prompt": "bad"}
    found = opened.sample(prompt=PROMPTS, control=control, latents=True, **options)
    levels = torch.from_numpy(control.transpose(2, 0, 1)[None] / np.float32(255)).to(distributed.device())
    beside = {"control": levels.expand(2, -1, -1, -1)}
    model, away = (
        Given(opened.model, Condition({**told(opened, texts).values, **beside})) for texts in (PROMPTS, ["bad", "bad"])
    )
    with torch.no_grad():
        x_T = prior(opened, (2, 4, 8, 8), [0, 1])
        expected = get_solver("ddim", num_steps=2)(Guided(model, away, 4.0), x_T).x.cpu()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    flat = {"method": "rk4", "num_steps": 1, "divergence": "hutchinson", "seed": 0}
    density = opened.log_prob(found[:1], prompt=PROMPTS[0], control=control, **flat)
    expected = log_likelihood(
        Given(opened.model, Condition({**told(opened, PROMPTS[:1]).values, "control": beside["control"][:1]})),
        torch.from_numpy(found[:1]).to(distributed.device()),
        seeds=[0],
        method="rk4",
        num_steps=1,
        divergence="hutchinson",
    ).log_prob.cpu()
    np.testing.assert_allclose(density, expected, rtol=1e-5)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "this pipeline is always told control: give control="),
        ({"control": control[:8], "size": 16}, "control is 8 x 16, and the pictures are to be 16 x 16"),
        ({"control": np.stack([control] * 3)}, "3 of control for 2 samples: give one, or one for each"),
        ({"control": control, "mask": control[..., 0]}, "this pipeline is not told mask: leave mask= out"),
    ]
    for given, said in wrong:
        with pytest.raises(UserError) as error:
            opened.sample(prompt=PROMPTS, **given)
        assert said in str(error.value)
    line = complaint(capsys, "--mode=sample", f"--checkpoint={tmp_path / 'sd'}", f"--workdir={tmp_path / 'run'}")
    assert "is always told of 'control' besides: give it from Python" in line
