"""A pipeline of diffusers from Python: words in, pictures out, and latents in between.

run = load("stable-diffusion")                            a folder with model_index.json
run.sample(prompt="a red cube", guidance=7, num_steps=8)  pictures, uint8 (N, C, H, W)
run.edit(pictures, prompt="…", strength=0.6)              pictures again
run.decode(run.encode(pictures))                          pictures to latents, and back
run.log_prob(latents, prompt="…")                         nats, of latents
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from score_sde.common import distributed
from score_sde.common.condition import Condition, joined
from score_sde.common.errors import UserError, naming
from score_sde.common.noise import SampleNoise
from score_sde.control import noised
from score_sde.experiment import pipelines, sampling
from score_sde.experiment.arrays import as_array
from score_sde.experiment.experiment import Experiment
from score_sde.experiment.pipeline_conditions import GIVEN, as_pictures, size_of, told_beside
from score_sde.experiment.prompts import heard
from score_sde.experiment.run import Examples, Run
from score_sde.experiment.tuning import solver_for
from score_sde.models import rows_of
from score_sde.models.given import GivenBeside
from score_sde.models.pretrained.latent_pipelines import LatentPipeline
from score_sde.solvers import Model
from score_sde.solvers.base import Solver

Size = int | tuple[int, int]


class PipelineRun(Run):
    """A pipeline samples, edits and measures as a run does; its examples are latents, and its answers pictures.

    Args:
        experiment: the model of latents, with its configuration.
        pipeline: the model again, with its autoencoder and its text encoders.

    Attributes:
        pipeline: its parts.
    """

    def __init__(self, experiment: Experiment, pipeline: LatentPipeline) -> None:
        super().__init__(experiment)
        self.pipeline = pipeline

    def sample(
        self,
        num_samples: int | None = None,
        *,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | None = None,
        size: Size | None = None,
        condition: Any = None,
        seed: int | None = None,
        solver: str | Solver | None = None,
        num_steps: int | None = None,
        guidance: float | None = None,
        latents: bool = False,
        **options: Any,
    ) -> np.ndarray:
        """Draw pictures, uint8 `(N, C, H, W)`; sample `i` has the seed `seed + i`.

        Args:
            num_samples: how many; as many as prompts, if left out, or one of a single prompt.
            prompt: what all are to be of, or each, a list.
            negative_prompt: what they are led away from, with a guidance above 1; nothing, if left out.
            size: of the pictures, `(height, width)` or one number; the pipeline's own if left out.
            condition: what else they are conditioned on, as of `Run.sample`.
            seed: that of the first sample.
            solver: a name, or a solver.
            num_steps: the solver's number of steps.
            guidance: scale of the guidance towards the prompt; 1 is none.
            latents: whether to return the latents themselves, float32 `(N, C, h, w)`.
            options: what the pipeline is always told besides, `picture` and `mask`, `depth`, or `control`; of
                Stable Diffusion XL `original_size`, `crops_coords_top_left` and `target_size`; see
                `experiment.pipeline_conditions`; and further keys of the section `sampling`.

        Raises:
            UserError: there is no such option or condition, or the size is none.
        """
        here, asked, count = self._ready(prompt, condition, num_samples, size, options)
        wanted = {"num_steps": num_steps, "guidance": guidance, "negative_prompt": negative_prompt, **options}
        experiment = here._sampling(count, seed, solver, wanted)
        asked = sampling.condition_of_samples(experiment, asked)
        # Not as `sample_of`, which reads all weights, gigabytes, to tell what samples were drawn with.
        x = sampling.drawn_from(here._plain(experiment), sampling.model_asked(experiment, asked), asked)
        return x.numpy() if latents else self.decode(x)

    def edit(
        self,
        x: Examples,
        *,
        prompt: str | Sequence[str] | None = None,
        strength: float | None = None,
        negative_prompt: str | None = None,
        condition: Any = None,
        seed: int | None = None,
        solver: str | Solver | None = None,
        num_steps: int | None = None,
        guidance: float | None = None,
        latents: bool = False,
        **options: Any,
    ) -> np.ndarray:
        """Return pictures with noise added to their latents and taken away again, as the prompt says: SDEdit.

        Args:
            x: pictures, uint8 `(N, C, H, W)` or `(N, H, W, C)`, or one; or latents, floats `(N, C, h, w)`.
            prompt: what all are to become, or each, a list.
            strength: how far the way to noise is gone, as a part of it; all steps are made on the way back. It is 0.6,
                and solver and steps are those of the section `edit`, where they are left out.
            negative_prompt: what they are led away from; this and the rest as of `sample`.
            condition: what else they are conditioned on.
            seed: the noise of picture `i` is that of `seed + i`.
            solver: a name, or a solver.
            num_steps: the solver's number of steps.
            guidance: scale of the guidance towards the prompt.
            latents: whether to return latents.
            options: as of `sample`.

        Raises:
            UserError: pictures are none, or there is no such option or condition.
        """
        given = torch.as_tensor(as_array(x))
        start = given if given.is_floating_point() else torch.as_tensor(self.encode(x))
        alone = start.ndim == 3
        start = (start[None] if alone else start).float()
        if start.ndim != 4 or start.shape[1] != self.pipeline.shape[0]:
            own = f"(N, {self.pipeline.shape[0]}, h, w)"
            raise UserError(f"pictures are uint8, and floats latents {own}, not {tuple(start.shape)}")
        here, asked, _ = self._ready(prompt, condition, len(start), self._size_of(start), options)
        edit = self.config.edit
        strength = edit.strength if strength is None else strength
        if solver is None:
            # What was given with the run, for all that it draws, is not passed over.
            told = any(name == "sampling.solver" for name, _ in self._experiment.overrides)
            own = self.config.sampling if told else edit
            solver, num_steps = own.solver, own.num_steps if num_steps is None else num_steps
        wanted = {"num_steps": num_steps, "guidance": guidance, "negative_prompt": negative_prompt, **options}
        experiment = here._sampling(len(start), seed, solver, wanted)
        model, way = sampling.model_asked(experiment, asked), solver_for(here._plain(experiment))
        first, size, parts = experiment.config.seed, experiment.config.sampling.batch_size, []
        for rows in (slice(k, min(k + size, len(start))) for k in range(0, len(start), size)):
            seeds = range(first + rows.start, first + rows.stop)
            with naming("strength"):
                until, noisy = noised(rows_of(model, rows), start[rows].to(distributed.device()), strength, seeds=seeds)
            parts.append(way(until, noisy, seeds=seeds).x.cpu())
        edited = torch.cat(parts)
        answer = edited.numpy() if latents else self.decode(edited)
        return answer[0] if alone else answer

    def asked(
        self,
        count: int = 1,
        *,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | None = None,
        guidance: float | None = None,
        condition: Any = None,
        size: Size | None = None,
        **options: Any,
    ) -> Model:
        """Return the model of so many latents as a prompt asks for them, guided, for any solver; as of `sample`."""
        here, asked, number = self._ready(prompt, condition, count, size, options)
        wanted = {"guidance": guidance, "negative_prompt": negative_prompt, **options}
        return sampling.model_asked(here._sampling(number, None, None, wanted), asked)

    def log_prob(
        self, x: Examples, *, prompt: Any = None, condition: Any = None, seed: int | None = None, **options: Any
    ) -> Any:
        """Return the log-density of latents, in nats, `(N,)` float64, or one number for one.

        Args:
            x: latents, `(N, C, h, w)`, such as `encode` gives.
            prompt: what they are of, all or each.
            condition: what else they are conditioned on.
            seed: the noise of latents `i`, of random divergences, is that of `seed + i`.
            options: what is told besides, as of `sample`; and further keys of the section `likelihood`, such as
                `divergence` or `rtol`.

        Raises:
            UserError: these are no latents, or there is no such option.
        """
        latents = torch.as_tensor(x)
        if not latents.is_floating_point() or latents.ndim not in (3, 4):
            raise UserError(f"a density is one of latents, floats (N, C, h, w), not {latents.dtype}: see encode")
        count = len(latents) if latents.ndim == 4 else 1
        here, told, _ = self._ready(prompt, condition, count, self._size_of(latents), options)
        return super(PipelineRun, here).log_prob(latents, condition=told, seed=seed, **options)

    def animate(self, path: Any, *args: Any, **options: Any) -> Any:
        """Refuse: the states that samples go through are latents, which are not shown."""
        raise UserError("a pipeline's states are latents, which are not shown on their way: see sample and decode")

    def _ready(
        self, prompt: Any, condition: Any, count: int | None, size: Size | None, options: dict[str, Any]
    ) -> tuple[PipelineRun, Condition | None, int | None]:
        """Return the run of pictures of this size, told what it is told besides, which is taken from the options; what
        so many samples are asked to be; and their number."""
        given = {name: options.pop(name, None) for names in GIVEN.values() for name in names}
        here = self._sized(size_of(given) if size is None else size)
        asked, count = here._told(prompt, condition, count)
        number = self.config.sampling.num_samples if count is None else count
        height, width = here.config.data.image_size, here.config.data.image_width or here.config.data.image_size
        beside = told_beside(self.pipeline, given, number, (height, width))
        if beside is None:
            return here, asked, count
        told = PipelineRun(here._experiment, self.pipeline)
        told.model = GivenBeside(here.model, beside.to(distributed.device()))
        return told, asked, count

    def _plain(self, experiment: Experiment) -> Experiment:
        """Return the experiment of the model by itself, told nothing besides."""
        return replace(experiment, model=self._experiment.model)

    def _size_of(self, latents: Tensor) -> tuple[int, int]:
        """Return height and width of the pictures of latents."""
        factor = self.pipeline.autoencoder.factor
        return latents.shape[-2] * factor, latents.shape[-1] * factor

    def _told(self, prompt: Any, condition: Any, count: int | None) -> tuple[Condition | None, int | None]:
        """Return what so many samples are asked to be, and their number."""
        if prompt is None:
            return self._asked(condition, count)
        if not isinstance(prompt, str | list | tuple):
            raise UserError(f"a prompt is a text, or a list of them, not {prompt!r}")
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        count = len(texts) if count is None else count
        if not texts or len(texts) not in (1, count):
            raise UserError(f"{len(texts)} prompts for {count} samples: give one for all, or one for each")
        told = heard(self._experiment.dataset, texts * (count // len(texts)))
        other, _ = self._asked(condition, count)
        return joined(told, other), count

    def _sized(self, size: Size | None) -> PipelineRun:
        """Return this run for pictures of another size."""
        if size is None:
            return self
        pair = (size, size) if isinstance(size, int) else size
        whole = isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(k, int) and k > 0 for k in pair)
        if not whole:
            raise UserError(f"size is a number of pixels, or (height, width), not {size!r}")
        height, width = pair
        config = copy.deepcopy(self.config)
        config.data.image_size, config.data.image_width = height, width
        dataset = pipelines.dataset_of(self.pipeline, config)
        return PipelineRun(replace(self._experiment, config=config, dataset=dataset), self.pipeline)

    def encode(self, x: Examples, *, seed: int | None = None, **options: Any) -> np.ndarray:
        """Return the latents of pictures, float32 `(N, C, h, w)`; of one picture those of one.

        Args:
            x: pictures, uint8 `(N, C, H, W)` or `(N, H, W, C)`, or one.
            seed: latents are drawn, that of picture `i` with `seed + i`; without one they are the means.
            options: none.
        """
        if options:
            raise UserError(f"pictures are encoded without {', '.join(options)}")
        pictures, alone = as_pictures(x, self.pipeline.autoencoder.picture_channels)
        noise = None if seed is None else SampleNoise(range(seed, seed + len(pictures)), "dequantisation")
        made = self.pipeline.autoencoder.encode(pictures, noise).cpu().numpy()
        return made[0] if alone else made

    def decode(self, z: Examples, **options: Any) -> np.ndarray:
        """Return the pictures of latents, uint8 `(N, C, H, W)`; of one that of one."""
        if options:
            raise UserError(f"latents are decoded without {', '.join(options)}")
        latents = torch.as_tensor(z, dtype=torch.float32)
        alone, channels = latents.ndim == 3, self.pipeline.shape[0]
        latents = latents[None] if alone else latents
        if latents.ndim != 4 or latents.shape[1] != channels:
            raise UserError(f"latents have shape (N, {channels}, h, w), not {tuple(latents.shape)}")
        pictures = self.pipeline.autoencoder.pictures(latents).cpu().numpy()
        return pictures[0] if alone else pictures
