"""The files of a pipeline: variants, parts, old names; what is wrong with them; and nothing but our own lines."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from score_sde.common.errors import UserError
from score_sde.models.pretrained.diffusers import load_pipeline
from score_sde.models.pretrained.diffusers_files import Weights, choose_weights, local_folder, read_weights

diffusers = pytest.importorskip("diffusers")

SAFE, BIN = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"


def make_pipeline(folder: Path) -> Any:
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        down_block_types=("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
    )
    pipeline = diffusers.DDPMPipeline(unet=unet, scheduler=diffusers.DDPMScheduler(num_train_timesteps=50))
    pipeline.save_pretrained(folder)
    return pipeline


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    diffusers.utils.logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("original")
    make_pipeline(folder)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "pipeline"))


def weights_of(folder: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / "unet" / SAFE)


def found(folder: Path) -> dict[str, Tensor]:
    return load_pipeline(folder).network.unet.state_dict()  # type: ignore[union-attr]


def line(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        load_pipeline(folder)
    assert str(error.value).isprintable()
    return str(error.value)


def change(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("diffusion_pytorch_model.fp16.safetensors", torch.float16),
        ("diffusion_pytorch_model.bf16.bin", torch.bfloat16),
        ("diffusion_pytorch_model.non_ema.safetensors", torch.float32),
        ("diffusion_pytorch_model.non_ema.bin", torch.float64),
    ],
)
def test_the_only_variant_is_used_in_float32_and_noted(name, dtype, folder, capfd):
    expected = {key: tensor.to(dtype) for key, tensor in weights_of(folder).items()}
    (folder / "unet" / SAFE).unlink()
    if name.endswith(".bin"):
        torch.save(expected, folder / "unet" / name)
    else:
        safetensors.torch.save_file(expected, folder / "unet" / name)
    read = found(folder)
    assert all(tensor.dtype == torch.float32 for tensor in read.values())
    assert all(torch.equal(read[key], tensor.float()) for key, tensor in expected.items())
    variant = name.split(".")[1]
    assert capfd.readouterr() == (
        "",
        f"note: {folder} has only the variant {variant!r} of its weights: they are used (in float32)\n",
    )


def test_the_library_itself_writes_variants_in_parts_that_are_read(original, tmp_path, capfd):
    pipeline = diffusers.DDPMPipeline.from_pretrained(original)
    pipeline.unet.half().save_pretrained(tmp_path / "unet", variant="fp16", max_shard_size="10KB")
    pipeline.scheduler.save_pretrained(tmp_path / "scheduler")
    shutil.copy(original / "model_index.json", tmp_path)
    assert len(list((tmp_path / "unet").glob("*-of-*"))) > 1
    read = found(tmp_path)
    assert all(torch.equal(read[key], tensor.half().float()) for key, tensor in weights_of(original).items())
    assert "has only the variant 'fp16'" in capfd.readouterr().err
    pipeline.unet.float().save_pretrained(tmp_path / "unet", safe_serialization=False, max_shard_size="10KB")
    read = found(tmp_path)
    assert all(torch.equal(read[key], tensor.half().float()) for key, tensor in weights_of(original).items())
    assert capfd.readouterr().err == ""
    (part := next((tmp_path / "unet").glob("*-00001-of-*.bin"))).unlink()
    assert line(tmp_path).endswith(f"there is no checkpoint {part}")


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ([SAFE, BIN, "diffusion_pytorch_model.fp16.safetensors"], SAFE),
        ([BIN, "diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.fp16.bin"], BIN),
        (["diffusion_pytorch_model.fp16.bin", "diffusion_pytorch_model.fp16.safetensors"], None),
        (
            ["diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model-00001-of-00002.safetensors"],
            None,
        ),
        (["diffusion_pytorch_model.fp16-00001-of-00002.safetensors", BIN], BIN),
        ([f"{SAFE}.index.fp16.json", "diffusion_pytorch_model.fp16-00001-of-00002.safetensors"], None),
        ([f"{BIN}.index.fp16.json", "diffusion_pytorch_model-00001-of-00002.fp16.bin"], None),
        (["flax_model.msgpack", "model.onnx", BIN], BIN),
    ],
)
def test_which_weights_are_chosen(names, chosen):
    name, variant = choose_weights(names, "there")
    assert name == (chosen or max(name for name in names if "-of-" not in name))
    assert variant == ("fp16" if "fp16" in name else None)


def test_several_variants_or_none_are_errors():
    both = ["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.non_ema.bin"]
    with pytest.raises(UserError, match=r"^there has the variants non_ema, fp16 and no plain weights: remove all but"):
        choose_weights(both, "there")
    with pytest.raises(UserError, match=r"^there has no diffusion_pytorch_model\.safetensors .*: there is a\.onnx, b$"):
        choose_weights(["b", "a.onnx"], "there")


def test_old_names_of_attention_and_wrappers_of_the_network_are_read(folder):
    weights = weights_of(folder)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in weights.items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        renamed[f"module._orig_mod.{name}"] = tensor
    assert sum("proj_attn" in name for name in renamed) > 0
    safetensors.torch.save_file(renamed, folder / "unet" / SAFE)
    read = found(folder)
    assert all(torch.equal(read[key], tensor) for key, tensor in weights.items())


def test_fourier_frequencies_are_read_by_their_old_name_too(tmp_path):
    frequencies = torch.arange(3.0)
    for there, said in (
        ({"time_proj.W": frequencies}, None),
        ({"time_proj.W": frequencies, "time_proj.weight": frequencies.clone()}, None),
        ({"time_proj.W": frequencies, "time_proj.weight": frequencies + 1}, "has time_proj.W and another time_proj.w"),
    ):
        safetensors.torch.save_file(there, tmp_path / SAFE)
        if said is None:
            read = read_weights(tmp_path, Weights(SAFE, None))
            assert list(read) == ["time_proj.weight"]
            assert torch.equal(read["time_proj.weight"], frequencies)
        else:
            with pytest.raises(UserError, match=said):
                read_weights(tmp_path, Weights(SAFE, None))


def test_what_the_librarys_moving_average_writes_is_read(original, tmp_path):
    from diffusers.training_utils import EMAModel

    shutil.copytree(original, tmp_path / "pipeline")
    unet = diffusers.UNet2DModel.from_pretrained(original / "unet")
    EMAModel(unet.parameters(), model_cls=diffusers.UNet2DModel, model_config=unet.config).save_pretrained(
        tmp_path / "pipeline" / "unet"
    )
    assert "decay" in json.loads((tmp_path / "pipeline" / "unet" / "config.json").read_text())
    read = found(tmp_path / "pipeline")
    assert all(torch.equal(read[key], tensor) for key, tensor in weights_of(original).items())


def test_weights_that_are_no_numbers_are_named(folder):
    weights = weights_of(folder)
    weights["conv_in.bias"][3] = float("nan")
    safetensors.torch.save_file(weights, folder / "unet" / SAFE)
    assert line(folder) == (
        f"{folder / 'unet' / SAFE} holds no usable weights: conv_in.bias is NaN in 1 of 8 places; "
        "take an earlier or another checkpoint"
    )


def test_code_in_a_bin_file_is_named_and_not_run(folder):
    (folder / "unet" / SAFE).unlink()
    torch.save({"conv_in.weight": print}, folder / "unet" / BIN)
    assert line(folder).startswith(
        f"cannot read the checkpoint {folder / 'unet' / BIN}: it holds more than data, namely builtins.print; only "
    )


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("model_index.json", b"{", "cannot read {}/model_index.json: it is truncated, damaged, or not JSON"),
        ("unet/config.json", b"[1]", "{}/unet/config.json has no settings by their names"),
        ("unet/config.json", None, "there is no {}/unet/config.json"),
        ("scheduler/scheduler_config.json", None, "there is no {}/scheduler/scheduler_config.json"),
        (f"unet/{SAFE}", None, "{}/unet has no diffusion_pytorch_model.safetensors (or .bin, or an index of parts)"),
        (f"unet/{SAFE}", b"<!doctype html>", "it is not a checkpoint but a web page: download the file itself"),
        (f"unet/{SAFE}", b"", "it is truncated, or damaged: the file is empty"),
        (f"unet/{SAFE}", b"\x10" * 99, "it is truncated, damaged, or not a checkpoint"),
    ],
)
def test_damaged_files_get_one_line(file, content, said, folder):
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    message = line(folder)
    assert said.replace("{}", str(folder)) in message
    assert str(folder) in message


@pytest.mark.parametrize(
    ("file", "settings", "said"),
    [
        ("model_index.json", {"vqvae": ["diffusers", "VQModel"]}, "alone: DDPMPipeline has vqvae, too"),
        ("model_index.json", {"_class_name": "BitPipeline"}, "is a BitPipeline, of which it is not known what it does"),
        ("model_index.json", {"scheduler": ["diffusers", "LCMScheduler"]}, "LCMScheduler is for consistency models"),
        ("model_index.json", {"_class_name": "ScoreSdeVePipeline"}, "with DDPMScheduler, which do not go together"),
        ("model_index.json", {"scheduler": ["mine", "DDPMScheduler"]}, "DDPMScheduler of mine is not in the installed"),
        ("model_index.json", {"scheduler": None}, "does not say of which class its scheduler is, but None"),
        ("model_index.json", {"scheduler": ["diffusers", "DDPMSchedule"]}, "(did you mean 'DDPMScheduler'?)"),
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "is not of a UNet2DModel, but UNet2DCondition"),
        ("unet/config.json", {"of_the_future": 3}, "has of_the_future=3, which the UNet2DModel of the installed diff"),
        ("unet/config.json", {"down_block_types": ["NoBlock2D"]}, "does not make a UNet2DModel: NoBlock2D does not"),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "EDMEulerScheduler"},
            "EDMEulerScheduler scales its network's input",
        ),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "ScoreSdeVeScheduler"},
            "model_index.json has DDPMScheduler, but scheduler_config.json ScoreSdeVeScheduler",
        ),
        ("scheduler/scheduler_config.json", {"beta_schedule": "sine"}, "is not for a DDPMScheduler: sine is not impl"),
        ("scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}, "says nothing of the data"),
        ("scheduler/scheduler_config.json", {"use_flow_sigmas": True}, "DDPMScheduler has use_flow_sigmas=True"),
        ("scheduler/scheduler_config.json", {"of_the_future": 0.5}, "has of_the_future=0.5, which is not known here"),
    ],
)
def test_settings_that_mean_something_else_are_named(file, settings, said, folder, capfd):
    change(folder / file, **settings)
    message = line(folder)
    assert said in message
    assert str(folder) in message
    assert capfd.readouterr() == ("", "")


def test_settings_that_the_library_would_leave_out_are_read(folder):
    """It drops what a file lists as its own defaults."""
    change(folder / "scheduler" / "scheduler_config.json", beta_end=0.5, _use_default_values=["beta_end"])
    sde: Any = load_pipeline(folder).sde
    assert float(sde.betas[-1]) == 0.5


class Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())


def test_nothing_of_the_libraries_is_printed(folder, capfd):
    """Neither of settings that they do not know, nor of weights in the older format, which they advise against."""
    change(folder / "unet" / "config.json", of_the_future=False)
    change(folder / "scheduler" / "scheduler_config.json", tensor_format="pt", predict_epsilon=True)
    weights = weights_of(folder)
    (folder / "unet" / SAFE).unlink()
    torch.save(weights, folder / "unet" / BIN)
    listener = Listener()
    logging.getLogger("diffusers").addHandler(listener)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_pipeline(folder)
    logging.getLogger("diffusers").removeHandler(listener)
    assert listener.heard == []
    assert capfd.readouterr() == ("", "")


class File:
    def __init__(self, name: str) -> None:
        self.rfilename = name


def test_only_the_weights_that_are_used_are_downloaded(monkeypatch):
    import huggingface_hub

    asked: dict[str, Any] = {}

    class Hub:
        def model_info(self, name):
            files = ["model_index.json", "unet/config.json", f"unet/{SAFE}", f"unet/{BIN}", "unet/flax_model.msgpack"]
            self.siblings = [File(file) for file in files]
            self.sha = "abc"
            return self

    def download(name, **options):
        asked.update(options, name=name)
        return "/somewhere"

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert local_folder("owner/model") == Path("/somewhere")
    assert asked == {
        "name": "owner/model",
        "revision": "abc",
        "allow_patterns": ["model_index.json", "scheduler/*.json", "unet/config.json", f"unet/{SAFE}"],
    }


def test_without_a_way_to_the_hub_what_was_downloaded_before_is_used(original, monkeypatch):
    import huggingface_hub

    class Hub:
        def model_info(self, name):
            raise ConnectionError("no way\nat all")

    def kept(name, local_files_only=False, **options):
        assert local_files_only
        if name != "owner/model":
            raise FileNotFoundError(name)
        return str(original)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", kept)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert load_pipeline("owner/model").sde.num_rungs == 50  # type: ignore[attr-defined]
    with pytest.raises(UserError) as error:
        load_pipeline("owner/other")
    assert str(error.value) == (
        "cannot read the pipeline owner/other: there is no such folder, and the hub does not have it or there is no "
        "way there (no way)"
    )
