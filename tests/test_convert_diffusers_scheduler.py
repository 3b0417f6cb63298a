"""scheduler_config.json both ways: the chain against diffusers' own schedulers, and what cannot be said."""

import inspect
import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from ddpm.chain import make_chain
from ddpm.config import ChainConfig, Config, DenoiserConfig
from ddpm.convert.diffusers_scheduler import (
    _SCHEDULERS,
    SCHEDULER,
    chain_betas,
    read_scheduler,
    scheduler_config,
)
from ddpm.errors import UserError

FILE = Path("scheduler/scheduler_config.json")


def said(learns: bool = False, **values: object) -> dict[str, object]:
    return read_scheduler(FILE, {"_class_name": "DDPMScheduler", **values}, learns)[0]


def saved(scheduler: object) -> dict[str, object]:
    return json.loads(scheduler.to_json_string())


def alphas(fields: dict[str, object]) -> np.ndarray:
    """ᾱ_1 … ᾱ_T of our chain, float64."""
    chain = make_chain(fields["chain.schedule"], fields["chain.steps"], fields["chain.betas"])
    return 1.0 / (1.0 + np.exp(chain.gamma[1:]))


def test_what_a_missing_key_means_is_diffusers_own_default():
    defaults = inspect.signature(DDPMScheduler.__init__).parameters
    assert {key: defaults[key].default for key in SCHEDULER} == SCHEDULER
    for name in _SCHEDULERS:
        known = set(inspect.signature(getattr(diffusers, name).__init__).parameters)
        betas = {"num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"}
        assert betas <= known or known == {"self", "args", "kwargs"}  # what stands for one whose package is absent


@pytest.mark.parametrize(
    ("options", "schedule"),
    [
        ({}, "linear"),
        ({"num_train_timesteps": 250}, "betas"),  # theirs does not keep ᾱ_T
        ({"num_train_timesteps": 250, "beta_start": 4e-4, "beta_end": 0.08}, "linear"),
        ({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}, "betas"),
        ({"beta_schedule": "squaredcos_cap_v2"}, "cosine"),
        ({"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 60}, "cosine"),
        ({"beta_schedule": "sigmoid"}, "betas"),
        ({"trained_betas": [0.01, 0.2, 0.05, 0.5], "num_train_timesteps": 4}, "betas"),
    ],
)
def test_the_chain_is_theirs(options, schedule):
    theirs = DDPMScheduler(**options)
    fields = said(**saved(theirs))
    assert fields["chain.schedule"] == schedule
    # theirs is a product in float32
    expected = theirs.alphas_cumprod.double().numpy()
    np.testing.assert_allclose(alphas(fields), expected, rtol=3e-6 * len(expected) ** 0.5, atol=1e-9)
    np.testing.assert_allclose(
        np.exp(np.cumsum(np.log1p(-chain_betas(ChainConfig(schedule, len(expected), fields["chain.betas"]))))),
        alphas(fields),
        rtol=1e-9,
    )


def test_betas_saved_in_single_precision_are_known_again():
    betas = np.float32(np.linspace(1e-4, 0.02, 1000)).tolist()
    assert said(trained_betas=betas) == said()
    betas[500] *= 1 + 1e-6
    assert said(trained_betas=betas)["chain.betas"] == tuple(betas)


@pytest.mark.parametrize(
    ("values", "field", "expected"),
    [
        ({}, "predicts", "eps"),
        ({"prediction_type": "sample"}, "predicts", "x0"),
        ({"prediction_type": "v_prediction"}, "predicts", "v"),
        ({"predict_epsilon": False}, "predicts", "x0"),
        ({"predict_epsilon": False, "prediction_type": "epsilon"}, "predicts", "eps"),
        ({}, "variance", "small"),
        ({"variance_type": "fixed_small_log"}, "variance", "small"),
        ({"variance_type": "fixed_large"}, "variance", "large"),
        ({"variance_type": "fixed_large_log"}, "variance", "large"),
        ({}, "clip", True),
        ({"clip_sample": False, "clip_sample_range": 3.0}, "clip", False),
    ],
)
def test_what_the_output_means(values, field, expected):
    assert said(**values)[f"denoiser.{field}"] == expected


def test_a_learned_variance():
    assert said(learns=True, variance_type="learned_range")["denoiser.variance"] == "learned_range"
    with pytest.raises(UserError, match=r'variance_type "fixed_small": the net gives a variance, which only'):
        said(learns=True)
    with pytest.raises(UserError, match=r'variance_type "learned_range": the net gives no variance'):
        said(variance_type="learned_range")


def test_another_scheduler_of_the_same_model():
    ddim = saved(diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False))
    fields, notes = read_scheduler(FILE, ddim, False)
    assert fields["chain.schedule"] == "cosine" and not fields["denoiser.clip"]
    assert fields["denoiser.variance"] == "small"
    assert "DDIMScheduler has no variance; small is taken (--denoiser.variance large)" in notes[0]
    assert "denoiser.variance" not in read_scheduler(FILE, ddim, True)[0]  # learned or not, it does not say
    euler = saved(diffusers.EulerDiscreteScheduler(prediction_type="v_prediction"))
    fields, _ = read_scheduler(FILE, euler, False)
    assert (fields["chain.schedule"], fields["denoiser.predicts"], fields["denoiser.clip"]) == (
        "linear",
        "v",
        False,
    )
    euler.pop("beta_end")
    with pytest.raises(UserError, match="lacks beta_end, which a EulerDiscreteScheduler has to say"):
        read_scheduler(FILE, euler, False)
    solver = saved(diffusers.DPMSolverMultistepScheduler(variance_type="learned_range"))
    assert read_scheduler(FILE, solver, True)[0]["denoiser.variance"] == "learned_range"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"_class_name": "KarrasVeScheduler"}, r'_class_name "KarrasVeScheduler": not the noise of a DDPM'),
        ({"thresholding": True}, r"thresholding true: dynamic thresholding is not known"),
        ({"rescale_betas_zero_snr": True}, r"rescale_betas_zero_snr true: leaves no signal at T"),
        ({"clip_sample_range": 2.0}, r"clip_sample_range 2.0: pictures of ours are clipped to \[-1, 1\]"),
        ({"prediction_type": "flow"}, r'prediction_type "flow": takes epsilon, sample, v_prediction'),
        ({"variance_type": "learned"}, r'variance_type "learned": .* ours for its logarithm'),
        ({"variance_type": "odd"}, r'variance_type "odd": takes fixed_small'),
        ({"beta_schedule": "laplace"}, r'beta_schedule "laplace": takes linear, scaled_linear'),
        ({"beta_start": 0.0}, r"beta_end 0.02: lies between beta_start \(0\) and 1"),
        ({"beta_end": "0.02"}, r'beta_end "0.02": is a number'),
        ({"num_train_timesteps": 0}, r"num_train_timesteps 0: is a positive whole number"),
        ({"trained_betas": [0.1, 0.2]}, r"trained_betas: are not 1000 numbers"),
        ({"trained_betas": [[0.1], [0.2]], "num_train_timesteps": 2}, r"trained_betas: are not 2 numbers"),
        ({"trained_betas": [0.1, 1.0], "num_train_timesteps": 2}, r"trained_betas: β number 2 is 1; lies between"),
    ],
)
def test_what_no_chain_of_ours_is(values, message):
    with pytest.raises(UserError, match=f"^{FILE}: {message}"):
        said(**values)


# -- ours → theirs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chain",
    [
        ChainConfig(),
        ChainConfig(rescale=True),
        ChainConfig("linear", 200),
        ChainConfig("cosine", 300),
        ChainConfig("sigmoid", 300),
        ChainConfig("betas", 3, (0.3, 0.1, 0.2)),
        ChainConfig("betas", 5, tuple(np.linspace(1e-3, 0.4, 5).tolist())),
    ],
)
def test_diffusers_makes_the_same_chain_of_it(chain):
    config = Config(chain=chain, denoiser=DenoiserConfig("v", "large", False))
    theirs = DDPMScheduler.from_config(scheduler_config(config))
    expected = make_chain(chain.schedule, chain.steps, chain.betas)
    assert theirs.config.num_train_timesteps == expected.T
    np.testing.assert_allclose(
        theirs.alphas_cumprod.double(), 1 / (1 + np.exp(expected.gamma[1:])), rtol=1e-4, atol=1e-9
    )
    torch.testing.assert_close(theirs.betas.double(), torch.from_numpy(chain_betas(chain)), rtol=1e-6, atol=1e-8)
    assert (theirs.config.prediction_type, theirs.config.variance_type) == ("v_prediction", "fixed_large")
    assert theirs.config.clip_sample is False
    fields = said(**scheduler_config(config))  # and it is ours again
    again = ChainConfig(fields["chain.schedule"], fields["chain.steps"], fields["chain.betas"])
    assert again.schedule == chain.schedule and again.betas == chain.betas


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "linear"),
        ({"num_train_timesteps": 200}, "linear"),
        ({"beta_schedule": "squaredcos_cap_v2"}, "squaredcos_cap_v2"),
        ({"trained_betas": [0.01, 0.2, 0.05], "num_train_timesteps": 3}, "linear"),
    ],
)
def test_theirs_there_and_back(options, name):
    theirs = DDPMScheduler(variance_type="fixed_large", **options)
    fields = said(**saved(theirs))
    config = Config().with_(**{key.replace(".", "__"): value for key, value in fields.items()})
    again = DDPMScheduler.from_config(scheduler_config(config))
    assert again.config.beta_schedule == name
    private = {key for key in theirs.config if key.startswith("_")}
    assert {key: again.config[key] for key in set(theirs.config) - private} == {
        key: theirs.config[key] for key in set(theirs.config) - private
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"denoiser__predicts": "mean"}, r"--denoiser.predicts mean: diffusers knows eps, x0 and v alone"),
        ({"denoiser__variance": "learned"}, r"--denoiser.variance learned: .* here it is its logarithm"),
        (
            {"chain__rescale": True, "chain__steps": 4000},
            r"--chain.rescale with 4000 steps: .* told the timestep as it is",
        ),
    ],
)
def test_what_a_scheduler_cannot_say(changes, message):
    with pytest.raises(UserError, match=message):
        scheduler_config(Config().with_(**changes))
