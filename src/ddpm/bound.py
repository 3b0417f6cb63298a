"""The variational bound on −log p(x_0), one term a step; training and measuring use the same function.

    L = L_T + Σ_{steps t → s} L_s        bits/dim                     (Ho et al. 2020, eq. 5)

    L_T    KL(q(x_T|x_0) ‖ N(0, 1))                                   the prior
    L_s    KL(q(x_s|x_t,x_0) ‖ p(x_s|x_t))            for s > 0
    L_0    −log p(x_0|x_t)                            the decoder, for pixels of 256 values (eq. 13)

It holds for any chain: a respaced one has its own bound, usually a looser one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ddpm.chain import Chain, Level
from ddpm.denoiser import Denoiser, Prediction
from ddpm.gaussian import Gaussian

Decoder = Callable[[Gaussian, Tensor], Tensor]
"""log p(x_0) of each element in nats: Gaussian.discretised_log_likelihood, or log_density for continuous data."""


def term(
    model: Denoiser,
    x0: Float[Tensor, "B *D"],
    xt: Float[Tensor, "B *D"],
    t: Level,
    s: Level,
    prediction: Prediction,
    decoder: Decoder = Gaussian.discretised_log_likelihood,
) -> Float[Tensor, "B"]:
    """The term of the step t → s in bits/dim, given x_t ~ q(x_t|x_0) and what the model sees in it."""
    p = model.reverse(xt, t, s, prediction)
    if isinstance(s, int):
        nats = -decoder(p, x0) if s == 0 else model.chain.posterior(x0, xt, t, s).kl(p)
        return bits(nats)
    nats = model.chain.posterior(x0, xt, t, s).kl(p)
    last = (s == 0).nonzero()[:, 0].to(x0.device)
    if len(last):  # picked out, since the decoder costs several times as much as the divergence
        assert isinstance(p.logvar, Tensor)  # one a row, as s is
        nats = nats.index_put((last,), -decoder(Gaussian(p.mean[last], p.logvar[last]), x0[last]))
    return bits(nats)


def prior(chain: Chain, x0: Float[Tensor, "B *D"]) -> Float[Tensor, "B"]:
    """L_T in bits/dim: what the last level still says of x_0."""
    return bits(chain.q(x0, chain.T).kl(Gaussian(torch.zeros_like(x0), 0.0)))


def bits(nats: Float[Tensor, "B *D"]) -> Float[Tensor, "B"]:
    """The mean of each row, in bits."""
    return nats.flatten(1).mean(1) / math.log(2.0)
