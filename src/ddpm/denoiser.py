"""The model p: a net, what its output means, and the Gaussian p(x_s|x_t) that follows.

Whatever the net predicts, the prediction is one of two equivalent things, tied by x_t = α_t x_0 + σ_t ε:

    eps    x̂_0 = (x_t − σ_t ε̂)/α_t                  (Ho et al. 2020, eq. 15)
    x0     ε̂ = (x_t − α_t x̂_0)/σ_t
    v      v = α_t ε − σ_t x_0,  x̂_0 = α_t x_t − σ_t v̂,  ε̂ = σ_t x_t + α_t v̂   (Salimans & Ho 2022, app. D)
    mean   μ̃ of q(x_{t−1}|x_t,x_0), solved for x̂_0      (Ho et al. 2020, eq. 7)

and p(x_s|x_t) = q(x_s|x_t, x_0 = x̂_0) with one of two variances (Ho et al., section 3.2).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ddpm.chain import Chain, Level, mix, spread
from ddpm.errors import UserError
from ddpm.gaussian import Gaussian

Predicts = Literal["eps", "x0", "v", "mean"]
Variance = Literal["small", "large"]


class Prediction(NamedTuple):
    """The model's view of x_t: the picture in it and the noise in it, with x_t = α_t x0 + σ_t eps."""

    x0: Float[Tensor, "B *D"]
    eps: Float[Tensor, "B *D"]


class Denoiser(nn.Module):
    """A net (x[B,*D], timestep[B], **cond) → [B,*D] on a chain.

    `clip` keeps x̂_0 in [−1, 1] and re-derives ε̂ from it. `native` is the chain the net was trained on, which
    a "mean" net's output refers to; it is the chain itself unless the model was respaced.
    """

    def __init__(
        self,
        net: nn.Module,
        chain: Chain,
        predicts: Predicts = "eps",
        variance: Variance = "large",
        clip: bool = True,
        native: Chain | None = None,
    ):
        super().__init__()
        if (
            predicts == "mean"
            and native is None
            and not np.array_equal(chain.timestep, np.arange(chain.T + 1) - 1)
        ):
            raise ValueError(
                "a net that predicts the mean needs `native`, the chain it was trained on, on a respaced one"
            )
        if predicts not in ("eps", "x0", "v", "mean"):
            raise UserError(f"--denoiser.predicts {predicts}: takes eps, x0, v or mean")
        if variance not in ("small", "large"):
            raise UserError(f"--denoiser.variance {variance}: takes small or large")
        self.net, self.chain, self.native = net, chain, native or chain
        self.predicts, self.variance, self.clip = predicts, variance, clip

    def forward(self, xt: Float[Tensor, "B *D"], t: Level, **cond: Any) -> Prediction:
        """What the model sees in x_t at level t ≥ 1."""
        return self.read(self.output(xt, t, **cond), xt, t)

    def output(self, xt: Float[Tensor, "B *D"], t: Level, **cond: Any) -> Float[Tensor, "B *D"]:
        """The net's own output, which `read` and the losses give a meaning."""
        output: Tensor = self.net(xt, self.chain.told(t, len(xt), xt.device), **cond)
        return output

    def read(self, output: Float[Tensor, "B *D"], xt: Float[Tensor, "B *D"], t: Level) -> Prediction:
        """The net's output as a prediction."""
        alpha, sigma = self.chain.alpha(t, xt), self.chain.sigma(t, xt)
        if self.predicts == "eps":
            x0 = mix(1.0, xt, -sigma, output).div_(alpha)
        elif self.predicts == "x0":
            x0 = output
        elif self.predicts == "v":
            x0 = mix(alpha, xt, -sigma, output)
        else:
            of_x0, of_xt = self._native_posterior(t)
            x0 = mix(1.0, output, -spread(of_xt, xt), xt).div_(spread(of_x0, xt))
        if self.clip:
            x0 = x0.clamp(-1.0, 1.0)
        elif self.predicts == "eps":
            return Prediction(x0, output)
        elif self.predicts == "v":
            return Prediction(x0, mix(sigma, xt, alpha, output))
        return Prediction(x0, mix(1.0, xt, -alpha, x0).div_(sigma))

    def target(self, x0: Float[Tensor, "B *D"], eps: Float[Tensor, "B *D"], t: Level) -> Float[Tensor, "B *D"]:
        """The output a perfect net would give for x_t = α_t x0 + σ_t eps."""
        if self.predicts == "eps":
            return eps
        if self.predicts == "x0":
            return x0
        alpha, sigma = self.chain.alpha(t, x0), self.chain.sigma(t, x0)
        if self.predicts == "v":
            return alpha * eps - sigma * x0
        of_x0, of_xt = self._native_posterior(t)
        return spread(of_x0, x0) * x0 + spread(of_xt, x0) * (alpha * x0 + sigma * eps)

    def reverse(self, xt: Float[Tensor, "B *D"], t: Level, s: Level, prediction: Prediction) -> Gaussian:
        """p(x_s|x_t) for levels s < t."""
        mean = self.chain.posterior_mean(prediction.x0, xt, t, s)
        return Gaussian(mean, spread(self.log_variance(t, s), xt))

    def log_variance(self, t: Level, s: Level) -> Any:
        """Log-variance of p(x_s|x_t), float64: σ_s² c ("small", β̃) or σ_t² c ("large", β).

        At s = 0, where β̃ is 0, both take the next step's small one, as Ho et al. and OpenAI do; with it the
        paper's L_0 comes out. A chain of one step has no next step and uses log β.
        """
        log_variance = self.chain.log_small if self.variance == "small" else self.chain.log_large
        if isinstance(s, int):
            return self._log_first() if s == 0 else log_variance(t, s)
        with np.errstate(divide="ignore"):
            return np.where(s.cpu().numpy() == 0, self._log_first(), log_variance(t, s))

    def _log_first(self) -> Any:
        return self.chain.log_small(2, 1) if self.chain.T > 1 else self.chain.log_large(1, 0)

    def respace(self, spec: Any) -> Denoiser:
        """The same net on fewer levels (see Chain.respace)."""
        chain = self.chain.respace(spec)
        return Denoiser(self.net, chain, self.predicts, self.variance, self.clip, self.native)

    def _native_posterior(self, t: Level) -> tuple[Any, Any]:
        """Posterior weights of the step t → t − 1 on the chain the net was trained on."""
        level: Level
        if isinstance(t, int):
            level = round(self.chain.timestep[t]) + 1
        else:
            level = torch.from_numpy(self.chain.timestep[t.cpu().numpy()]).round().long() + 1
        return self.native.posterior_weights(level, level - 1)
