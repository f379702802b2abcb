"""A joint embedding, a prior of its embeddings and a decoder that is told them, on glyphs, as small as they can be."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import score_sde
from score_sde.common import distributed
from score_sde.common.errors import UserError
from score_sde.control import Guided, slerp
from score_sde.data.sources import glyphs
from score_sde.experiment.condition_values import condition_of
from score_sde.experiment.load import to_train
from score_sde.experiment.training import make_trainer
from score_sde.models import Given
from score_sde.solvers import get_solver
from score_sde.training import checkpoint
from tests.modes.test_main import run as command

SMALL = {"data.image_size": 8, "training.batch_size": 8, "training.sample_every": 0, "training.evaluate_every": 0}
SMALL |= {"training.log_every": 0}
UNET = {"model.channels": 8, "model.channel_multipliers": (1, 1), "model.attention_depths": (1,)}
EMBEDDING = {**SMALL, "model.channels": 4, "model.channel_multipliers": (1, 1), "model.embedding_size": 6}
STEPS = {"sampling.num_steps": 2}
PROMPT = "bold sans, latin small letter e with acute"


def settings(folder: Path, part: str) -> dict[str, Any]:
    """Return the settings of a part of a system in a folder."""
    own = {"data.folder": str(folder / "data"), "training.measure_every": 0, "training.schedule": "constant"}
    # Networks that begin at zero are far from it after two steps.
    own |= {"training.learning_rate": 0.02, "training.warmup_steps": 0, "training.ema_decay": 0.0}
    if part == "embedding":
        return {**EMBEDDING, **own}
    if part == "prior":
        return {**SMALL, **own, **STEPS, "data.embedding": str(folder / "embedding"), "model.width": 8}
    return {**SMALL, **own, **UNET, **STEPS, "data.embed_condition": str(folder / "embedding")}


def trained(folder: Path, part: str, num_steps: int = 2, **more: Any) -> Any:
    """Train a part of a system in a folder, for two steps."""
    given = settings(folder, part) | {key.replace("__", "."): value for key, value in more.items()}
    return score_sde.fit("glyphs", config=f"unclip/{part}", workdir=folder / part, num_steps=num_steps, settings=given)


@pytest.fixture(scope="module", autouse=True)
def few_letters():
    """Glyphs are those of 30 characters, which are drawn quickly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyphs, "shared_characters", list)
        patch.setattr(glyphs, "compositions", lambda characters: list("aeiouáéíóúàèìòùâêîôûäëïöüāēīōū"))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unclip")
    for part in ("embedding", "prior", "decoder"):
        trained(folder, part)
    return folder


@pytest.fixture(scope="module")
def embedding(folder):
    return score_sde.load(folder / "embedding")


@pytest.fixture(scope="module")
def prior(folder):
    return score_sde.load(folder / "prior")


@pytest.fixture(scope="module")
def decoder(folder):
    return score_sde.load(folder / "decoder")


def test_pictures_and_captions_are_embedded_on_the_sphere(embedding):
    pictures = embedding.dataset.train[:3]
    together, alone = embedding.embed(pictures), embedding.embed(pictures[1].numpy())
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(alone, together[1], rtol=0, atol=1e-6)
    assert embedding.embed([PROMPT, "mono"]).shape == (2, 6)
    np.testing.assert_allclose(embedding.embed(PROMPT), embedding.embed([PROMPT, "mono"])[0], rtol=0, atol=1e-6)
    # In the middle of their bins: level k lies at (2 k + 1) / 256 - 1.
    with torch.no_grad():
        expected = embedding.model.pictures(((2 * pictures.float() + 1) / 256 - 1).to(distributed.device()))
    np.testing.assert_allclose(together, expected.cpu().numpy(), rtol=0, atol=1e-6)


def test_a_prior_is_of_the_embeddings_and_a_decoder_is_told_them(folder, embedding, prior, decoder):
    embedded = embedding.embed(embedding.dataset.test)
    assert torch.equal(prior.dataset.test, torch.from_numpy(embedded))
    assert prior.dataset.condition_units.keys() == {"caption"}
    moments = prior.dataset.units.encode(prior.dataset.train).double()
    torch.testing.assert_close(moments.mean(0), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-5)
    assert decoder.dataset.condition_units.keys() == {"embedding"}
    assert torch.equal(decoder.dataset.conditions["test"]["embedding"], torch.from_numpy(embedded))
    assert prior.dataset.embedded_by == decoder.dataset.embedded_by is not None
    assert len(list((folder / "data").glob("embeddings_*.safetensors"))) == 1


def test_words_are_drawn_by_prior_and_decoder(folder, prior, decoder):
    """Embedding `i` is the prior's sample of a seed of its own, brought to the sphere; and all is by seeds alone."""
    asked = {"prompt": PROMPT, "prior": str(folder / "prior")}
    drawn = decoder.sample(3, seed=5, **asked)
    words, device = condition_of(prior.config, prior.dataset, PROMPT, 3)[0], distributed.device()
    model = Guided(Given(prior.model, words.to(device)), prior.model, prior.config.sampling.guidance)
    seeds = [2**32 + 5, 2**32 + 6, 2**32 + 7]
    solver = get_solver("default", num_steps=2, data_std=1.0)
    z = solver(model, prior.model.sde.prior_sample((3, 6), seeds=seeds, device=device), seeds=seeds).x.cpu()
    embeddings = prior.dataset.units.decode(z)
    embeddings = embeddings / embeddings.norm(dim=1, keepdim=True)
    told = decoder.sample(3, seed=5, condition={"embedding": embeddings})
    assert np.abs(drawn.astype(int) - told.astype(int)).max() <= 1
    assert np.abs(drawn.astype(int) - decoder.sample(3, seed=5, condition=-embeddings.numpy()).astype(int)).max() > 9
    assert np.array_equal(drawn[1:], decoder.sample(2, seed=6, batch_size=1, **asked))
    assert not np.array_equal(drawn, decoder.sample(3, seed=5, prior=asked["prior"]))


def test_variations_and_what_lies_between_two_pictures(embedding, decoder):
    first, other = embedding.embed(embedding.dataset.test[:2])
    variations = decoder.sample(3, condition=first, seed=1)
    assert not np.array_equal(variations[0], variations[1])
    assert np.array_equal(variations[1:2], decoder.sample(1, condition=first, seed=2))
    a, b = (torch.from_numpy(np.repeat(end[None], 3, 0)) for end in (first, other))
    between = slerp(a, b, torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(between.norm(dim=1), torch.ones(3))
    path = decoder.sample(condition=between, seed=1)
    assert np.array_equal(path[:1], variations[:1])


def test_the_command_line_draws_from_words(folder, decoder, capsys):
    arguments = [
        f"--config.sampling.{key}" for key in ("num_samples=2", f"prompt={PROMPT}", f"prior={folder / 'prior'}")
    ]
    assert command("--mode", "sample", "--workdir", folder / "decoder", "--config.seed=7", *arguments) == 0
    with np.load(folder / "decoder" / "samples" / "default.npz") as written:
        images = written["images"][..., 0]
    drawn = decoder.sample(2, prompt=PROMPT, prior=str(folder / "prior"), seed=7)
    assert np.array_equal(images, drawn[:, 0])


@pytest.mark.usefixtures("on_cpu")
def test_an_embedding_resumes_to_the_last_bit(tmp_path):
    for num_steps in (2, 4):
        trained(tmp_path, "embedding", num_steps)
    whole = tmp_path / "whole"
    trained(whole, "embedding", 4)
    resumed, once = (
        checkpoint.load_weights_file(place / "embedding" / "checkpoints" / "step_0000004.safetensors")[0]
        for place in (tmp_path, whole)
    )
    assert resumed.keys() == once.keys()
    assert all(torch.equal(resumed[name], once[name]) for name in once)


def test_a_decoder_draws_in_another_folder_without_its_embedding(folder, tmp_path, decoder):
    weights = next((folder / "decoder" / "checkpoints").glob("step_*.safetensors"))
    shutil.copy(weights, tmp_path / "alone.safetensors")
    z = np.eye(6, dtype=np.float32)[:2]
    alone = score_sde.load(tmp_path / "alone.safetensors", settings={"data.embed_condition": "nowhere"})
    assert np.array_equal(alone.sample(condition=z, seed=0), decoder.sample(condition=z, seed=0))


def test_embeddings_of_another_run_are_refused(folder, tmp_path):
    """Of a run that was trained on, embeddings mean something else: to go on with them is refused, and to mix them."""
    for part in ("embedding", "prior"):
        shutil.copytree(folder / part, tmp_path / part)
    place = {"data__embed_condition": str(tmp_path / "embedding")}
    trained(tmp_path, "decoder", 1, **place)
    trained(tmp_path, "embedding", 3)
    with pytest.raises(UserError, match=r"glyphs has embeddings of the run with weights \w+, but .* with those of the"):
        trained(tmp_path, "decoder", 2, **place)
    shutil.rmtree(tmp_path / "prior")
    trained(tmp_path, "prior")
    with pytest.raises(
        UserError, match=r"sampling\.prior: .* is not of the embeddings that this model was trained with"
    ):
        score_sde.load(folder / "decoder").sample(1, prior=str(tmp_path / "prior"))


def at(key: str, place: Path) -> dict[str, Any]:
    return {f"data__{key}": str(place)}


def test_what_is_no_embedding_is_refused_in_one_line(folder, tmp_path, embedding, decoder):
    for key, part in (("embedding", "prior"), ("embed_condition", "decoder")):
        with pytest.raises(UserError, match=f"data.{key}: .*nowhere"):
            trained(tmp_path, part, **at(key, tmp_path / "nowhere"))
        with pytest.raises(UserError, match=f"data.{key}: .* is no joint embedding: train one"):
            trained(tmp_path, part, **at(key, folder / "decoder"))
        with pytest.raises(UserError, match=rf"data.{key}: the run embeds pictures with shape \(1, 8, 8\), and glyphs"):
            trained(tmp_path, part, data__image_size=16, **at(key, folder / "embedding"))
    with pytest.raises(UserError, match="take one"):
        trained(tmp_path, "prior", data__embed_condition=str(folder / "embedding"))
    with pytest.raises(UserError, match="embeddings are those of pictures as they are"):
        trained(tmp_path, "decoder", data__embed_condition=str(folder / "embedding"), data__augment="shift")
    with pytest.raises(UserError, match=r"sampling\.prior: .* is no prior|is not of the embeddings"):
        decoder.sample(1, prior=str(folder / "embedding"))
    with pytest.raises(UserError, match=r"sampling\.prior: this model is told no embeddings"):
        score_sde.load(folder / "prior").sample(1, prior=str(folder / "prior"))
    with pytest.raises(UserError, match="leave out it, or the condition"):
        decoder.sample(1, condition=np.zeros(6), prior=str(folder / "prior"))
    with pytest.raises(UserError, match="this model embeds nothing"):
        decoder.embed(PROMPT)
    with pytest.raises(UserError, match="no caption of the training data has the word 'quux'"):
        embedding.embed(["quux"])


def test_a_joint_embedding_is_no_score_model(folder, tmp_path, embedding, monkeypatch):
    for ask in (
        lambda: embedding.sample(1),
        lambda: embedding.log_prob(embedding.dataset.test[:1]),
        lambda: embedding.encode(embedding.dataset.test[:1]),
        lambda: embedding.animate(tmp_path / "a.gif"),
    ):
        with pytest.raises(UserError, match="this is a joint embedding"):
            ask()
    assert command("--mode", "sample", "--workdir", folder / "embedding") == 1
    with pytest.raises(UserError, match=r"model\.class_conditional is nothing for a joint embedding"):
        trained(tmp_path, "embedding", model__class_conditional=True)
    with pytest.raises(UserError, match="compares all examples of a batch, which is not divided"):
        trained(tmp_path, "embedding", training__accumulation=2)
    keys = [(key, str(value)) for key, value in settings(tmp_path, "embedding").items()]
    experiment = to_train("unclip/embedding", tmp_path / "several", keys)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(UserError, match="train it with one process"):
        make_trainer(experiment)
