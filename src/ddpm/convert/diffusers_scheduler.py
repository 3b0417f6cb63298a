"""scheduler_config.json of diffusers ↔ our ChainConfig and DenoiserConfig.

Their named courses of β are the same for any T, ours keep ᾱ_T: a chain gets our name where its β are the same to
1e-7, and is kept as numbers otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddpm.chain import make_chain
from ddpm.config import ChainConfig, Config
from ddpm.convert.diffusers_unet import VERSION
from ddpm.convert.said import Said
from ddpm.errors import UserError
from ddpm.limits import STEPS

# What a key that is missing stands for: DDPMScheduler's own defaults.
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "variance_type": "fixed_small",
    "clip_sample": True,
    "prediction_type": "epsilon",
    "thresholding": False,
    "clip_sample_range": 1.0,
    "rescale_betas_zero_snr": False,
}
# Schedulers that differ in how they sample, not in what they are told of the model.
_DRAWN_AS_TRAINED = ("DDPMScheduler", "DDPMParallelScheduler")
_SAME_DEFAULTS = (*_DRAWN_AS_TRAINED, "DDIMScheduler", "DDIMParallelScheduler", "PNDMScheduler")
_CLIPPING = (*_DRAWN_AS_TRAINED, "DDIMScheduler", "DDIMParallelScheduler")
_SCHEDULERS = (
    *_SAME_DEFAULTS,
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DPMSolverSDEScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "RePaintScheduler",
)

_PREDICTS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_VARIANCES = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "fixed_large_log": "large",
    "learned_range": "learned_range",
}


# -- theirs → ours ------------------------------------------------------------------------------------


def read_scheduler(path: Path, values: Mapping[str, Any], learns: bool) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Fields of the config by dotted name, and what there is to say; UserError for what our chain cannot be.

    learns: whether the net gives a variance, too. denoiser.variance is left out where it does and the scheduler
    does not say how to take it. How timesteps are spaced is a choice of each sampling, and not read.
    """
    kind = values.get("_class_name", "DDPMScheduler")
    otherwise = SCHEDULER if kind in _DRAWN_AS_TRAINED else {**SCHEDULER, "variance_type": None}
    if kind not in _CLIPPING:
        otherwise = {**otherwise, "clip_sample": False}
    said = Said(path, {"_class_name": kind, **values}, otherwise)
    if kind not in _SCHEDULERS:
        raise said.refusal(
            "_class_name", "not the noise of a DDPM; known are DDPMScheduler, DDIMScheduler and such"
        )
    absent = [
        key for key in ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end") if key not in values
    ]
    if kind not in _SAME_DEFAULTS and absent:
        raise UserError(f"{path}: lacks {absent[0]}, which a {kind} has to say; save it again with diffusers")
    said.only("thresholding", False, rule="dynamic thresholding is not known here; clip_sample is")
    said.only("rescale_betas_zero_snr", False, rule="leaves no signal at T, where a chain of ours always has some")
    said.only("clip_sample", True, False, rule="is true or false")
    if said["clip_sample"] and said.number("clip_sample_range") != 1.0:
        raise said.refusal("clip_sample_range", "pictures of ours are clipped to [-1, 1]")
    if values.get("predict_epsilon") is False and "prediction_type" not in values:  # until 0.10
        said.values["prediction_type"] = "sample"
    said.only("prediction_type", *_PREDICTS, rule=f"takes {', '.join(_PREDICTS)}")
    fields = {
        **_chain(said),
        "chain.rescale": False,
        "denoiser.predicts": _PREDICTS[said["prediction_type"]],
        "denoiser.clip": said["clip_sample"],
    }
    variance = said["variance_type"]
    if variance == "learned":
        raise said.refusal(
            "variance_type", "diffusers takes the net's output for the variance, ours for its logarithm"
        )
    said.only("variance_type", None, *_VARIANCES, rule=f"takes {', '.join(_VARIANCES)}")
    if variance is None and learns:
        return fields, ()
    if variance is not None and learns != (variance == "learned_range"):
        gives = "gives a variance, which only learned_range takes" if learns else "gives no variance"
        raise said.refusal("variance_type", f"the net {gives} (its out_channels)")
    notes = () if variance else (f"{path}: a {kind} has no variance; small is taken (--denoiser.variance large)",)
    return {**fields, "denoiser.variance": _VARIANCES[variance or "fixed_small"]}, notes


def _chain(said: Said) -> dict[str, Any]:
    """Our name for the noise where the chain is the same, or its numbers."""
    steps = said.whole("num_train_timesteps")
    if steps > STEPS:
        raise said.refusal("num_train_timesteps", f"is at most {STEPS:,}")
    given = said["trained_betas"]
    betas = _betas(said, steps) if given is None else np.array(given, dtype=object)
    key = "beta_schedule" if given is None else "trained_betas"
    if given is not None:
        if betas.shape != (steps,) or not all(type(beta) in (int, float) and abs(beta) < 1e300 for beta in betas):
            raise UserError(
                f"{said.path}: trained_betas: are not {steps} numbers, one for each of num_train_timesteps"
            )
        betas = betas.astype(np.float64)
    if not np.all((betas > 0) & (betas < 1)):
        at = int(np.flatnonzero(~((betas > 0) & (betas < 1)))[0])
        raise UserError(f"{said.path}: {key}: β number {at + 1} is {betas[at]:g}; lies between 0 and 1")
    for chain in (ChainConfig("linear", steps), ChainConfig("cosine", steps), ChainConfig("sigmoid", steps)):
        try:
            same = np.allclose(chain_betas(chain), betas, rtol=1e-7, atol=0.0)
        except UserError:  # too few steps for it
            continue
        if same:
            return {"chain.schedule": chain.schedule, "chain.steps": steps, "chain.betas": ()}
    return {"chain.schedule": "betas", "chain.steps": steps, "chain.betas": tuple(betas.tolist())}


def _betas(said: Said, steps: int) -> np.ndarray:
    """β of a named course of theirs, in float64."""
    said.only("beta_schedule", *_COURSES, rule=f"takes {', '.join(_COURSES)}, or trained_betas")
    start, end = said.number("beta_start"), said.number("beta_end")
    if not 0 < start <= end < 1:
        raise said.refusal("beta_end", f"lies between beta_start ({start:g}) and 1, and that above 0")
    return _COURSES[said["beta_schedule"]](start, end, steps)


def _squared_cosine(start: float, end: float, steps: int) -> np.ndarray:
    """Nichol & Dhariwal 2021, eq. 17; start and end mean nothing."""
    bar = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
    betas: np.ndarray = np.minimum(1.0 - bar[1:] / bar[:-1], 0.999)
    return betas


_COURSES: dict[str, Callable[[float, float, int], np.ndarray]] = {
    "linear": np.linspace,
    "scaled_linear": lambda start, end, steps: np.linspace(start**0.5, end**0.5, steps) ** 2,
    "squaredcos_cap_v2": _squared_cosine,
    "sigmoid": lambda start, end, steps: start + (end - start) / (1.0 + np.exp(-np.linspace(-6.0, 6.0, steps))),
}


def chain_betas(chain: ChainConfig) -> np.ndarray:
    """β_1 … β_T of a chain, float64."""
    if chain.schedule == "betas":
        return np.array(chain.betas, dtype=np.float64)
    made = make_chain(chain.schedule, chain.steps)
    t = torch.arange(1, made.T + 1)
    betas: np.ndarray = np.exp(made.log_large(t, t - 1))
    return betas


# -- ours → theirs ------------------------------------------------------------------------------------


def scheduler_config(config: Config) -> dict[str, Any]:
    """scheduler_config.json of the same chain and denoiser; UserError for what a DDPMScheduler cannot say."""
    chain, denoiser = config.chain, config.denoiser
    predicts = {ours: theirs for theirs, ours in _PREDICTS.items()}
    if denoiser.predicts not in predicts:
        raise UserError(f"--denoiser.predicts {denoiser.predicts}: diffusers knows eps, x0 and v alone")
    variances = {"small": "fixed_small", "large": "fixed_large", "learned_range": "learned_range"}
    if denoiser.variance not in variances:
        raise UserError(
            f"--denoiser.variance {denoiser.variance}: diffusers takes the net's output for the variance, here it "
            "is its logarithm; small, large and learned_range can be written"
        )
    betas = chain_betas(chain)
    if chain.rescale and len(betas) != 1000:
        raise UserError(
            f"--chain.rescale with {len(betas)} steps: diffusers' nets are told the timestep as it is; chains of "
            "1000 steps alone, where that is the same, can be written"
        )
    course: dict[str, Any] = {
        "beta_schedule": "linear",
        "beta_start": float(betas[0]),
        "beta_end": float(betas[-1]),
    }
    trained = None
    if chain.schedule == "cosine":
        course = {key: SCHEDULER[key] for key in course} | {"beta_schedule": "squaredcos_cap_v2"}
    elif chain.schedule == "linear":
        course |= {"beta_start": 0.1 / len(betas), "beta_end": 20.0 / len(betas)}
    elif not np.array_equal(np.linspace(betas[0], betas[-1], len(betas)), betas):
        course, trained = {key: SCHEDULER[key] for key in course}, betas.tolist()
    return {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": VERSION,
        "num_train_timesteps": len(betas),
        **course,
        "trained_betas": trained,
        "variance_type": variances[denoiser.variance],
        "clip_sample": denoiser.clip,
        "clip_sample_range": 1.0,
        "prediction_type": predicts[denoiser.predicts],
        "thresholding": False,
        "timestep_spacing": "leading",
        "steps_offset": 0,
    }
