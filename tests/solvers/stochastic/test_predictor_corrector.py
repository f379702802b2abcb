"""The predictor-corrector loop: weak order by exact moments, laws of samples, calls and their times."""

from __future__ import annotations

import pytest
import torch

from score_sde.common.errors import UserError
from score_sde.sde import SDE, VESDE, VPSDE, RectifiedFlow, SubVPSDE
from score_sde.solvers import get_solver

PROCESSES = [VPSDE(), SubVPSDE(), VESDE(), RectifiedFlow()]
PREDICTORS = ["euler_maruyama", "reverse_diffusion", "ancestral"]
# Where errors are measured: away from the end, and where no leading error coefficient happens to vanish.
STOP: dict[type[SDE], float] = {VPSDE: 0.3, SubVPSDE: 0.3, VESDE: 0.5, RectifiedFlow: 0.5}


def name_of(value: object) -> str | None:
    return type(value).__name__ if isinstance(value, SDE) else None


@pytest.mark.parametrize("sde", PROCESSES, ids=name_of)
@pytest.mark.parametrize("predictor", PREDICTORS)
def test_weak_order_is_one(sde, predictor, gaussian, affine_moments):
    t_min = STOP[type(sde)]
    mean, variance = gaussian.moments(sde, t_min)
    errors, mean_errors = [], []
    for intervals in (64, 128, 256):
        solver = get_solver(
            "pc", predictor=predictor, corrector="none", num_steps=intervals + 1, t_min=t_min, denoise=False
        )
        new_mean, new_variance = affine_moments(solver, gaussian.model(sde), *gaussian.moments(sde, sde.T))
        errors.append((new_variance / variance - 1).abs())
        mean_errors.append((new_mean - mean).abs())
    slopes = torch.log2(torch.stack(errors[:-1]) / torch.stack(errors[1:]))
    torch.testing.assert_close(slopes, torch.ones_like(slopes), rtol=0, atol=0.3)
    # Euler's steps follow straight lines exactly.
    straight = predictor == "euler_maruyama" and type(sde) is RectifiedFlow
    if predictor == "ancestral" or type(sde) is VESDE or straight:
        torch.testing.assert_close(mean_errors[0], torch.zeros_like(mean), rtol=0, atol=1e-12)
    else:
        torch.testing.assert_close(torch.log2(mean_errors[1] / mean_errors[2]), torch.ones_like(mean), rtol=0, atol=0.3)


@pytest.mark.usefixtures("one_generator")
@pytest.mark.parametrize("sde", PROCESSES, ids=name_of)
@pytest.mark.parametrize(
    ("predictor", "corrector"), [(name, "none") for name in PREDICTORS] + [("reverse_diffusion", "langevin")]
)
def test_samples_have_the_mixtures_mean_and_covariance(sde, predictor, corrector, mixture):
    solver = get_solver("pc", predictor=predictor, corrector=corrector, num_steps=150, snr=0.1)
    x = solver(mixture.model(sde), mixture.latents(sde, 3000), seeds=range(3000)).x
    assert mixture.largest_deviation(x) < 4.5


@pytest.mark.usefixtures("one_generator")
@pytest.mark.parametrize("corrector", ["langevin", "ald"])
def test_correctors_alone_anneal_to_the_mixture(corrector, mixture):
    sde = VESDE(0.05, 10.0)
    solver = get_solver("pc", predictor="none", corrector=corrector, num_steps=100, corrector_steps=4, snr=0.2)
    x = solver(mixture.model(sde), mixture.latents(sde, 2000), seeds=range(2000)).x
    assert mixture.largest_deviation(x) < 4.5


@pytest.mark.parametrize("sde", PROCESSES, ids=name_of)
def test_calls_predict_first_and_stay_inside(sde, mixture, counting):
    model, t_min = counting(mixture.model(sde)), 0.01
    x_T = mixture.latents(sde, 3)
    solution = get_solver("pc", num_steps=5, corrector_steps=2, t_min=t_min)(model, x_T, seeds=[0, 1, 2])
    grid = torch.linspace(1.0, t_min, 5, dtype=torch.float64)
    expected = [time for i in range(4) for time in (grid[i], grid[i + 1], grid[i + 1])] + [grid[-1]]
    torch.testing.assert_close(torch.stack(model.times), torch.stack(expected))
    assert solution.nfe == len(model.times) == 13
    assert model.lies_inside(t_min)


@pytest.mark.parametrize(
    ("options", "nfe"),
    [
        ({"corrector": "none"}, 20),
        ({"corrector": "none", "denoise": False}, 19),
        ({"corrector": "langevin"}, 39),
        ({"corrector": "ald", "corrector_steps": 3}, 77),
        ({"corrector": "langevin", "corrector_steps": 0}, 20),
        ({"predictor": "none"}, 20),
        ({"grid": "uniform_log_snr", "step_size": "published"}, 39),
    ],
)
def test_nfe_is_the_number_of_calls(options, nfe, mixture, counting):
    model = counting(mixture.model(SubVPSDE()))
    solution = get_solver("pc", num_steps=20, **options)(model, mixture.latents(SubVPSDE(), 2), seeds=[0, 1])
    assert solution.nfe == len(model.times) == nfe
    assert model.lies_inside(1e-3)


def test_the_last_step_is_the_denoised_mean(mixture):
    sde = VPSDE()
    model, x_T = mixture.model(sde), mixture.latents(sde, 4)
    options = {"num_steps": 10, "t_min": 0.02}
    before = get_solver("pc", denoise=False, **options)(model, x_T, seeds=range(4)).x
    after = get_solver("pc", **options)(model, x_T, seeds=range(4)).x
    torch.testing.assert_close(
        after, model.denoise(before, torch.tensor(0.02, dtype=torch.float64)), rtol=1e-14, atol=0
    )


@pytest.mark.parametrize("step_size", ["time", "published"])
def test_a_sample_depends_on_its_own_seed_alone(step_size, mixture):
    sde = VESDE()
    model, x_T = mixture.model(sde), mixture.latents(sde, 64)
    solver = get_solver("pc", num_steps=30, step_size=step_size)
    batch = solver(model, x_T, seeds=range(64)).x
    for i in (0, 17, 63):
        alone = solver(model, x_T[i : i + 1], seeds=[i]).x
        torch.testing.assert_close(alone[0], batch[i], rtol=1e-10, atol=1e-10)
    assert torch.equal(batch, solver(model, x_T, seeds=range(64)).x)
    assert not torch.allclose(batch, solver(model, x_T, seeds=range(1, 65)).x)


def test_without_seeds_the_generator_decides(mixture):
    sde = VPSDE()
    model, x_T = mixture.model(sde), mixture.latents(sde, 3)
    solver = get_solver("pc", num_steps=10)
    first, again, other = (solver(model, x_T, generator=torch.Generator().manual_seed(seed)).x for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_images_in_single_precision(mixture, one_generator):
    """The same numbers as vectors in double precision, to single precision."""
    sde = VPSDE()
    model, x_T = mixture.model(sde), mixture.latents(sde, 6)
    solver = get_solver("pc", num_steps=50)
    double = solver(model, x_T, seeds=range(6)).x
    one_generator.manual_seed(0)
    single = solver(model, x_T.float().reshape(6, 1, 1, 2), seeds=range(6)).x
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double().reshape(6, 2), double, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"predictor": "euler"}, "no predictor is called 'euler'; there are: euler_maruyama, reverse_diffusion"),
        ({"num_steps": 1, "denoise": False}, "num_steps must be at least 2, not 1"),
        ({"corrector_steps": -1}, "corrector_steps must be at least 0"),
        ({"snr": 0.0}, "snr must be positive"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        get_solver("pc", **options)


def test_seeds_must_fit_the_batch(mixture):
    with pytest.raises(UserError, match="2 seeds for a batch of 3: give one seed an example"):
        get_solver("pc")(mixture.model(VPSDE()), mixture.latents(VPSDE(), 3), seeds=[0, 1])
