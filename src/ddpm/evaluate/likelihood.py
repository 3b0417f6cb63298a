"""How many bits a picture takes: the bound of `bound.py`, measured picture by picture.

    likelihood    every term of the model's chain: one evaluation of the net a term
    estimate      the decoder's term, and a few others drawn at random: the same sum in the mean, for long chains

The chain of the model is the one that is measured. That of K levels respaced from T has its own bound, which is
not an estimate of the other: it is looser, since its steps are longer.

Noise is addressed by picture and native level, so a picture's terms are the same in any batch, and those of two
chains with common levels are of the same x_t. The net runs in its own precision, the terms are float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ddpm.bound import Decoder, prior, term
from ddpm.chain import Chain
from ddpm.denoiser import Denoiser, Prediction
from ddpm.gaussian import Gaussian
from ddpm.noise import Purpose, normals_each, uniform
from ddpm.respacing import levels
from ddpm.walks import Progress


class Bits(NamedTuple):
    """Bits/dim of each picture, float64 on the CPU: total = prior + Σ terms.

    terms[:, t − 1] is that of the step t → t − 1, so terms[:, 0] is the decoder's; error[:, t − 1] is the mean
    squared error of x̂_0 at t, of pictures in [−1, 1].
    """

    total: Float[Tensor, "B"]
    prior: Float[Tensor, "B"]
    terms: Float[Tensor, "B T"]
    error: Float[Tensor, "B T"]


class Estimate(NamedTuple):
    """Bits/dim of each picture from M levels drawn of t = 2 … T, float64 on the CPU.

    total = prior + decoder + Σ weight · terms, whose mean over the draws is the T-step bound. A weight says how
    many terms the one stands for.
    """

    total: Float[Tensor, "B"]
    prior: Float[Tensor, "B"]
    decoder: Float[Tensor, "B"]
    levels: Int64[Tensor, "B M"]
    weights: Float[Tensor, "B M"]
    terms: Float[Tensor, "B M"]
    error: Float[Tensor, "B M"]


def likelihood(
    model: Denoiser,
    x0: Float[Tensor, "B *D"],
    numbers: Int64[Tensor, "B"],
    seed: int = 0,
    decoder: Decoder = Gaussian.discretised_log_likelihood,
    progress: Progress | None = None,
    **cond: Any,
) -> Bits:
    """Every term of the model's chain for pictures x0 in [−1, 1] with these numbers.

    progress: called with (terms done, terms in all).
    """
    chain, x0 = model.chain, exact(x0)
    places = model.native.places(chain).astype(np.int64)
    terms, errors = [], []
    for t in range(1, chain.T + 1):
        eps = noise_at(seed, numbers, int(places[t]), x0)
        bits, error = _one(model, x0, eps, t, t - 1, decoder, cond)
        terms.append(bits)
        errors.append(error)
        if progress:
            progress(t, chain.T)
    before, every = _kept([prior(chain, x0)])[:, 0], _kept(terms)
    return Bits(before + every.sum(1), before, every, _kept(errors))


def estimate(
    model: Denoiser,
    x0: Float[Tensor, "B *D"],
    numbers: Int64[Tensor, "B"],
    draws: int,
    seed: int = 0,
    decoder: Decoder = Gaussian.discretised_log_likelihood,
    progress: Progress | None = None,
    **cond: Any,
) -> Estimate:
    """The bound from `draws` of the terms t = 2 … T of each picture, and that of t = 1, which always counts.

    Levels are drawn evenly over `level_probabilities`, one in each of as many equal parts of it (stratified).
    """
    chain, x0 = model.chain, exact(x0)
    places = torch.from_numpy(model.native.places(chain)).long()
    decoded, _ = _one(model, x0, noise_at(seed, numbers, int(places[1]), x0), 1, 0, decoder, cond)
    before, decoded = _kept([prior(chain, x0), decoded]).unbind(1)
    if chain.T == 1:
        none = torch.zeros(len(x0), 0, dtype=torch.float64)
        return Estimate(before + decoded, before, decoded, none.long(), none, none, none)
    p = torch.from_numpy(level_probabilities(chain))
    offset = uniform(seed, Purpose.BOUND_TIME, numbers.cpu(), 0)
    u = (offset + torch.arange(draws, dtype=torch.float64)) / draws
    edges = p.cumsum(0)
    place = torch.searchsorted(edges, u * edges[-1], right=True).clamp_(max=chain.T - 2)
    levels, weights = place + 2, 1.0 / (draws * p[place])
    terms, errors = [], []
    for m in range(draws):
        t = levels[:, m].contiguous()
        eps = noise_at(seed, numbers, places[t], x0)
        bits, error = _one(model, x0, eps, t, t - 1, decoder, cond)
        terms.append(bits)
        errors.append(error)
        if progress:
            progress(m + 1, draws)
    drawn = _kept(terms)
    total = before + decoded + (weights * drawn).sum(1)
    return Estimate(total, before, decoded, levels, weights, drawn, _kept(errors))


def level_probabilities(chain: Chain) -> Float[np.ndarray, "n"]:
    """Of t = 2 … T, float64[T − 1]: half even, half as the change of log SNR in the step.

    A term is about half the change of the SNR times the error of x̂_0, which falls about as the SNR rises.
    """
    change: np.ndarray = np.diff(chain.gamma[1:])
    probabilities: np.ndarray = 0.5 / len(change) + 0.5 * change / change.sum()
    return probabilities


def bound_levels(steps: int, T: int) -> Sequence[int]:
    """The levels of a K-step bound: K evenly spaced ones and all of 1 … T/K.

    Most of the bound is made at the first levels, which an even grid alone would cross in one step (Nichol &
    Dhariwal 2021, appendix). UserError if there are not so many.
    """
    return sorted({*levels(steps, T), *range(1, T // steps + 1)})


def _one(
    model: Denoiser,
    x0: Tensor,
    eps: Tensor,
    t: int | Tensor,
    s: int | Tensor,
    decoder: Decoder,
    cond: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """Bits/dim of the step t → s, and the squared error of x̂_0, [B]."""
    xt, prediction = look(model, x0, eps, t, cond)
    bits = term(model, x0, xt, t, s, prediction, decoder)
    return bits, (prediction.x0 - x0).square().flatten(1).mean(1)


def _kept(columns: Sequence[Tensor]) -> Tensor:
    """Columns [B] as float64 [B, n] on the CPU: the device is waited for once, not once a level."""
    return torch.stack(list(columns), dim=1).cpu().double()


def look(
    model: Denoiser, x0: Float[Tensor, "B *D"], eps: Float[Tensor, "B *D"], t: int | Tensor, cond: dict[str, Any]
) -> tuple[Float[Tensor, "B *D"], Prediction]:
    """x_t ~ q(x_t|x_0), and what the model sees in it; the net in its own precision, all else in that of x_0."""
    with torch.no_grad():
        xt = model.chain.q(x0, t).sample(eps)
        output = model.output(xt.float(), t, **cond).to(x0.dtype)
        return xt, model.read(output, xt, t)


def noise_at(seed: int, numbers: Tensor, level: int | Tensor, x0: Tensor) -> Tensor:
    """The noise of these pictures at a level of the native chain, or int64[B], each at its own."""
    levels = level if isinstance(level, Tensor) else torch.tensor([level]).expand(len(x0))
    return normals_each(seed, Purpose.BOUND, numbers.to(x0.device), levels, x0.shape[1:]).to(x0.dtype)


def exact(x0: Tensor) -> Tensor:
    """In float64, where the device has it."""
    return x0.double() if x0.device.type != "mps" else x0
