"""A configuration with a learned process: what goes with it, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.experiment import build, checks, configuration
from score_sde.sde import LearnedSDE

REFUSED: dict[str, list[dict[str, object]]] = {
    "a process is learned by the variational bound, which is for no other": [
        {"sde.name": "learned"},
        {"training.objective": "variational"},
    ],
    "tells a network more of the time than its log-SNR": [
        {"sde.name": "learned", "training.objective": "variational", "model.noise_label": "time"}
    ],
    "a classifier learns no process": [
        {"sde.name": "learned", "training.objective": "variational", "model.network": "adm_classifier"},
        {"sde.name": "learned", "training.objective": "variational", "model.network": "classifier"},
    ],
    "log_snr_min=20 must lie below log_snr_max=13.3": [
        {"sde.name": "learned", "training.objective": "variational", "sde.log_snr_min": 20.0}
    ],
    "is for score matching": [
        {"sde.name": "learned", "training.objective": "variational", "training.coupling": "ot"},
    ],
}


@pytest.mark.parametrize(("line", "values"), [(line, values) for line, many in REFUSED.items() for values in many])
def test_what_does_not_fit_is_refused(line: str, values: dict[str, object]) -> None:
    config = configuration.load_file("configs/default.py")
    config.update_from_flattened_dict(values)
    with pytest.raises(UserError, match=line):
        checks.check(config, "train")


def test_the_recipe_has_the_schedule_among_its_weights_and_others_have_none() -> None:
    vdm, vp = (configuration.load_file(f"configs/vp/{name}.py") for name in ("digits_vdm", "digits"))
    checks.check(vdm, "train")
    models: list[Any] = [build.make_model(config, build.make_dataset(config)) for config in (vdm, vp)]
    learned, plain = ({name for name in model.state_dict() if not name.startswith("network.")} for model in models)
    assert learned - plain == {f"sde.{name}" for name in ("log_slope", "log_heights", "log_rates", "centres")}
    assert not any(name.startswith("sde.") for name in plain)
    # Its ends are those of the default's times.
    sde, ends = models[0].sde, models[1].sde.log_snr(torch.tensor([1e-5, 1.0], dtype=torch.float64))
    assert isinstance(sde, LearnedSDE)
    torch.testing.assert_close(sde.ends, ends, rtol=0, atol=0.06)
