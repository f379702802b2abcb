"""The digits in one to four network calls: a flow map, learnt from the flow of the run in runs/digits in half its time.

    python main.py --mode train --config configs/vp/digits_fewstep.py
    python main.py --mode sample --workdir runs/vp_digits_fewstep --config.sampling.num_steps=2

Without a teacher, `--config.training.teacher=none`, it learns from the data alone.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.configs.vp import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.model.flow_map = True
    config.training.update(objective="lagrangian", teacher="runs/digits")
    config.training.update(
        num_steps=500, warmup_steps=50, learning_rate=2e-3, ema_decay=0.99, evaluate_every=250, checkpoint_every=250
    )
    # The teacher knows what is to be learnt of the digits: they need few changes.
    config.data.distortion = 0.1
    config.sampling.update(solver="consistency", num_steps=4)
    return config
