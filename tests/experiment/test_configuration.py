"""Configurations: every way in checks names and types."""

from __future__ import annotations

import pytest

from score_sde.common.errors import UserError
from score_sde.configs.default import get_config
from score_sde.experiment import configuration
from tests.reading import ROOT

ALL_FILES = sorted(path.relative_to(ROOT) for path in ROOT.glob("configs/*/**/*.py"))


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("seed", "7", 7),
        ("training.num_steps", "1_000", 1000),
        ("training.learning_rate", "1e-3", 1e-3),
        ("training.max_grad_norm", "2", 2.0),
        ("training.stratified", "False", False),
        ("model.channel_multipliers", "(1, 2)", (1, 2)),
        ("model.channel_multipliers", "1,2,4", (1, 2, 4)),
        ("model.attention_resolutions", "4", (4,)),
        ("model.attention_resolutions", "()", ()),
        ("compare.solvers", "pc,ode", ("pc", "ode")),
        ("sampling.solver", "pc", "pc"),
        ("sampling.t_min", "1e-3", 1e-3),
        ("sampling.t_min", "none", None),
        ("sampling.num_steps", "20", 20),
    ],
)
def test_overrides_have_the_type_of_the_key(key, text, value):
    config = get_config()
    configuration.override(config, [(key, text)])
    found = dict(configuration.flatten(config))[key]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "complaint"),
    [
        ("training.num_step", "1", r"no configuration key 'training.num_step' \(did you mean 'training.num_steps'\?\)"),
        ("training", "1", "no configuration key 'training'"),
        ("training.num_steps", "many", "--config.training.num_steps takes an integer, not 'many'"),
        ("training.num_steps", "1.5", "takes an integer"),
        ("training.learning_rate", "fast", "takes a number"),
        ("training.stratified", "perhaps", "takes true or false"),
        ("model.channel_multipliers", "1,two", "takes a list"),
        ("training.num_steps", "none", "takes an integer"),
        ("sampling.num_steps", "x", "takes an integer"),
    ],
)
def test_faulty_overrides_are_named(key, text, complaint):
    with pytest.raises(UserError, match=complaint):
        configuration.override(get_config(), [(key, text)])


def test_a_saved_configuration_comes_back_equal(tmp_path):
    config = configuration.load_file("configs/vp/digits.py")
    configuration.override(config, [("sampling.t_min", "1e-3"), ("model.fir_kernel", "1,2,1")])
    configuration.save(config, tmp_path / "config.json")
    assert configuration.load_json(tmp_path / "config.json").to_dict() == config.to_dict()


def test_a_saved_configuration_may_lack_keys_but_not_have_others(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"training": {"num_steps": 5}}')
    expected = get_config()
    expected.training.num_steps = 5
    assert configuration.load_json(path).to_dict() == expected.to_dict()
    path.write_text('{"training": {"num_stepz": 5}}')
    with pytest.raises(UserError, match=r"did you mean 'training\.num_steps'"):
        configuration.load_json(path)
    path.write_text('{"training": {"num_steps": "five"}}')
    with pytest.raises(UserError, match=r"training\.num_steps takes an integer, not 'five'"):
        configuration.load_json(path)
    path.write_text('{"training": ')
    with pytest.raises(UserError, match="cannot read the configuration"):
        configuration.load_json(path)
    path.write_text("[]")
    with pytest.raises(UserError, match="it holds no keys"):
        configuration.load_json(path)
    path.write_text('{"model": {"channel_multipliers": ["a"]}}')
    with pytest.raises(UserError, match=r"channel_multipliers takes a list such as 1,2, not \('a',\)"):
        configuration.load_json(path)
    path.write_text('{"seed": null}')
    with pytest.raises(UserError, match="seed takes an integer, not None"):
        configuration.load_json(path)


def test_faulty_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"configs/vp/digit\.py \(did you mean 'configs/vp/digits"):
        configuration.load_file("configs/vp/digit.py")
    faulty = tmp_path / "faulty.py"
    default = "from configs.default import get_config as default\ndef get_config():\n    config = default()\n"
    faulty.write_text(default + "    config.training.num_step = 3\n    return config\n")
    with pytest.raises(UserError, match=r"faulty\.py: AttributeError.*num_step"):
        configuration.load_file(faulty)
    faulty.write_text(default + "    config.training.num_steps = 'x'\n    return config\n")
    with pytest.raises(UserError, match=r"faulty\.py: TypeError.*num_steps"):
        configuration.load_file(faulty)
    faulty.write_text("def get_config(:")
    with pytest.raises(UserError, match=r"faulty\.py: SyntaxError"):
        configuration.load_file(faulty)


@pytest.mark.parametrize("path", ALL_FILES, ids=str)
def test_every_configuration_file_has_the_keys_of_the_default(path):
    config = configuration.load_file(path)
    assert [key for key, _ in configuration.flatten(config)] == [key for key, _ in configuration.flatten(get_config())]


def test_differences_are_found_in_the_chosen_sections():
    one, other = get_config(), get_config()
    other.sampling.solver = "pc"
    other.model.dropout = 0.5
    assert configuration.differences(one, other, ("data", "sde")) == []
    assert configuration.differences(one, other, ("data", "model")) == ["model.dropout"]
    assert configuration.differences(one, other, ("data", "model"), ["model.dropout"]) == []
