"""Samples that are asked for in words."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import score_sde
from score_sde.common.errors import UserError

TINY = {
    "model.channels": 8,
    "model.channel_multipliers": (1, 1),
    "model.attention_depths": (1,),
    "training.batch_size": 8,
    "training.sample_every": 0,
    "training.evaluate_every": 0,
    "data.image_size": 8,
    "sampling.num_steps": 3,
}
PROMPT = "bold sans, latin small letter e with acute"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "glyphs"
    score_sde.fit("glyphs", config="vp/glyphs", workdir=folder, num_steps=3, settings=TINY)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return score_sde.load(folder)


def test_a_prompt_is_the_condition_of_its_words(run):
    words = run.dataset.condition_units["caption"]
    asked = run.sample(2, prompt=PROMPT, seed=3)
    assert np.array_equal(asked, run.sample(2, condition=PROMPT, seed=3))
    assert np.array_equal(asked, run.sample(2, condition={"caption": [PROMPT, PROMPT]}, seed=3))
    assert words.text(words.read([PROMPT])) == [PROMPT]


def test_guidance_leads_away_from_nothing_or_from_a_negative_prompt(run):
    """What leads away from the prompt itself changes nothing; at `w = 1` nothing is led away from, which is said."""
    plain = run.sample(2, prompt=PROMPT, seed=3, guidance=1.0)
    with pytest.raises(UserError, match="guidance=1 is none"):
        run.sample(2, prompt=PROMPT, negative_prompt="mono", seed=3, guidance=1.0)
    same = run.sample(2, prompt=PROMPT, negative_prompt=PROMPT, seed=3, guidance=5.0)
    assert np.abs(same.astype(int) - plain.astype(int)).max() <= 1
    guided = {
        negative: run.sample(2, prompt=PROMPT, negative_prompt=negative, seed=3, guidance=5.0)
        for negative in ("mono", "serif")
    }
    assert not np.array_equal(*guided.values())


def test_what_is_asked_for_twice_is_refused(run):
    with pytest.raises(UserError, match="caption is asked for twice"):
        run.sample(2, condition=PROMPT, prompt="mono")


def test_prompts_of_a_file_are_taken_in_turn(run, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("bold sans\n\nserif, latin small letter e\n", encoding="utf-8")
    drawn = run.sample(4, prompt=str(path), seed=0)
    captions = ["bold sans", "serif, latin small letter e"] * 2
    assert np.array_equal(drawn, run.sample(4, condition=captions, seed=0))
    with pytest.raises(UserError, match="2 prompts cannot be shared evenly by 3 samples"):
        run.sample(3, prompt=str(path))
    with pytest.raises(UserError, match="cannot read"):
        run.sample(2, prompt=str(tmp_path / "none.txt"))


def test_a_prompt_of_words_that_are_not_known_is_refused_and_what_is_too_long_is_said(run, capsys):
    known = "no caption of the training data has the word 'boldly' of 'boldly sans' (did you mean 'bold'?)"
    for asked in ({"prompt": "boldly sans"}, {"prompt": "sans", "negative_prompt": "boldly sans"}):
        with pytest.raises(UserError, match=re.escape(known)):
            run.sample(1, guidance=2.0, **asked)
    with pytest.raises(UserError, match="has the word 'quux' of 'quux'; they have words such as a, above, acute, b"):
        run.sample(1, prompt="quux")
    with pytest.raises(UserError, match="there are no words in ', '; they have words such as"):
        run.sample(1, prompt=", ")
    longest = run.dataset.condition_units["caption"].length
    run.sample(1, prompt="bold; " + "a " * longest)
    assert "no caption of the training data has ;" in (said := capsys.readouterr().out)
    assert f"the longest has {longest} words, of {longest + 2} the rest is not heard" in said


def test_a_model_without_captions_has_no_prompts(tmp_path):
    other = score_sde.fit(
        torch.randn(50, 2), config="vp/vectors", num_steps=1, settings={"model.width": 8, "model.num_blocks": 1}
    )
    with pytest.raises(UserError, match="this model is told no captions"):
        other.sample(1, prompt=PROMPT)


def test_likelihood_is_given_a_caption(run):
    """Of the same pictures under two captions there are two densities, and the same under one twice."""
    x = run.dataset.test[:2].numpy()
    first = run.log_prob(x, condition=PROMPT)
    assert np.array_equal(first, run.log_prob(x, condition=[PROMPT, PROMPT]))
    assert not np.array_equal(first, run.log_prob(x, condition="mono, latin capital letter z"))


def test_a_picture_that_moves_is_the_prompt_as_well(run, tmp_path):
    run.animate(tmp_path / "asked.gif", num_samples=1, prompt=PROMPT, seed=0)
    run.animate(tmp_path / "told.gif", num_samples=1, condition=PROMPT, seed=0)
    run.animate(tmp_path / "plain.gif", num_samples=1, seed=0, guidance=1.0)
    asked, told, plain = ((tmp_path / f"{name}.gif").read_bytes() for name in ("asked", "told", "plain"))
    assert asked == told
    assert asked != plain


def test_two_ways_to_be_led_away_are_refused(run, folder):
    with pytest.raises(UserError, match=r"are led by one of sampling.negative_prompt, sampling.reference"):
        run.sample(1, prompt=PROMPT, negative_prompt="mono", reference=str(folder), guidance=2.0)


def test_words_of_other_data_are_not_taken_for_the_same(tmp_path):
    """Captions of as many words, as long, whose numbers mean something else."""
    x = np.random.default_rng(0).integers(0, 255, (12, 8, 8), dtype=np.uint8)
    words = {"first": ["red ball", "blue cube"], "second": ["apple zebra", "cat dog"]}
    small = {**TINY, "sampling.num_steps": 2}
    runs = {
        name: score_sde.fit(
            x,
            condition={"caption": 6 * said},
            config="vp/glyphs",
            workdir=tmp_path / name,
            num_steps=1,
            settings=small,
        )
        for name, said in words.items()
    }
    with pytest.raises(UserError, match="knows captions by other words than"):
        runs["second"].sample(1, prompt="apple zebra", guidance=2.0, reference=str(tmp_path / "first"))
    # A caption is heard by the words of the model, whatever words these data have.
    told = runs["first"].dataset.in_units_of(runs["second"].dataset.description)
    assert told.conditions["train"]["caption"].unique().tolist() == [1]
    assert "captions of the train part have words that the model does not know" in told.unheard()[0]
    assert runs["first"].dataset.unheard() == []
