"""Models that are told captions by a frozen text encoder: trained, resumed and sampled, wherever the encoder lies."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import score_sde
from score_sde.common.errors import UserError
from tests.text_encoders import save_clip, save_t5

pytest.importorskip("transformers")

PROMPT = "red ball"
CAPTIONS = [PROMPT, "blue ball", "bold sans, blue", "a red ball, a blue ball of a ball"] * 4
X = np.random.default_rng(0).integers(0, 255, (len(CAPTIONS), 8, 8), dtype=np.uint8)
TINY = {
    "data.image_size": 8,
    "training.batch_size": 4,
    "training.sample_every": 0,
    "training.evaluate_every": 0,
    "training.learning_rate": 1e-2,
    "training.warmup_steps": 0,
    "sampling.num_steps": 2,
    "sampling.guidance": 2.0,
}
NETWORKS = {
    "unet": {"model.channels": 8, "model.channel_multipliers": (1, 1), "model.attention_depths": (1,)},
    "dit": {"model.network": "dit", "model.width": 12, "model.num_blocks": 2, "model.num_heads": 2},
}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("encoders")
    return {"unet": save_clip(place / "clip"), "dit": save_t5(place / "t5")}


def fit(network: str, encoder: Path, workdir: Path, num_steps: int, **settings):
    told = {"data.text_encoder": str(encoder), "data.folder": str(workdir.parent / "kept")}
    settings = {**TINY, **NETWORKS[network], **told, **settings}
    return score_sde.fit(
        X, condition={"caption": CAPTIONS}, config="vp/glyphs", workdir=workdir, num_steps=num_steps, settings=settings
    )


@pytest.mark.parametrize("network", NETWORKS)
def test_pictures_are_asked_for_in_another_process_and_the_encoder_lies_elsewhere(network, encoders, tmp_path, capsys):
    run = fit(network, encoders[network], tmp_path / "run", 3)
    out = capsys.readouterr()
    assert "the network is told captions by the text encoder" in out.out + out.err
    asked = run.sample(2, prompt=PROMPT, negative_prompt="blue ball", seed=3)
    assert np.array_equal(asked, run.sample(2, condition=[PROMPT, PROMPT], negative_prompt="blue ball", seed=3))
    for other in ({"prompt": "blue ball"}, {"prompt": PROMPT}, {"guidance": 1.0}):
        assert not np.array_equal(asked, run.sample(2, seed=3, **other))
    # The checkpoint has no weights of the encoder, and works with it wherever it is.
    (tmp_path / "encoder").parent.mkdir(exist_ok=True)
    shutil.copytree(encoders[network], tmp_path / "encoder")
    loaded = score_sde.load(tmp_path / "run", settings={"data.text_encoder": str(tmp_path / "encoder")})
    assert np.array_equal(asked, loaded.sample(2, prompt=PROMPT, negative_prompt="blue ball", seed=3))
    assert not any(
        "text_model" in name or "shared" in name for name, _ in loaded.model.named_parameters()
    )  # those of transformers' models are called so
    # Without captions nothing is asked of it; with them, it has to be there, and to be the same.
    shutil.rmtree(tmp_path / "encoder")
    loaded.sample(1, seed=0, guidance=1.0)
    with pytest.raises(UserError, match=r"data.text_encoder: there is no folder .*encoder, where the text encoder"):
        loaded.sample(1, prompt=PROMPT)
    shutil.copytree(encoders["dit" if network == "unet" else "unet"], tmp_path / "encoder")
    with pytest.raises(UserError, match=r"data.text_encoder: the text encoder in .* is another"):
        loaded.sample(1, prompt=PROMPT)


@pytest.mark.usefixtures("on_cpu")
def test_a_resumed_run_is_the_same_to_the_bit(encoders, tmp_path):
    often = {"training.checkpoint_every": 2}
    whole = fit("unet", encoders["unet"], tmp_path / "whole", 4, **often)
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    (tmp_path / "parts" / "checkpoints" / "step_0000004.pt").unlink()
    # It begins again with an encoder that lies elsewhere, and what was kept of captions is gone.
    shutil.rmtree(tmp_path / "kept")
    shutil.copytree(encoders["unet"], tmp_path / "encoder")
    resumed = fit("unet", tmp_path / "encoder", tmp_path / "parts", 4, **often)
    for (name, one), two in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


def test_another_encoder_is_refused_and_so_is_one_without_captions(encoders, tmp_path, capsys):
    run = fit("unet", encoders["unet"], tmp_path / "run", 1)
    assert "captions of the train part are longer than the 10 tokens that are heard" in capsys.readouterr().err
    run.sample(1, prompt="red ball of a ball of red balls")
    assert "'red ball of a ball of red balls': of its" in capsys.readouterr().out
    other = save_clip(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"is another .* than the one that the model was trained with"):
        fit("unet", other, tmp_path / "run", 2)
    with pytest.raises(UserError, match="is for data with captions, and arrays has none"):
        score_sde.fit(X, config="vp/glyphs", num_steps=1, settings={"data.text_encoder": str(other)} | TINY)
    words = score_sde.fit(
        X,
        condition={"caption": CAPTIONS},
        config="vp/glyphs",
        workdir=tmp_path / "words",
        num_steps=1,
        settings={**TINY, **NETWORKS["unet"]},
    )
    assert words.sample(1, prompt=PROMPT).shape == (1, 1, 8, 8)
    with pytest.raises(UserError, match="this model has learnt words of its own, and hears no encoder"):
        score_sde.load(tmp_path / "words", settings={"data.text_encoder": str(other)})
