"""The model p: a net, what its output means, and the Gaussian p(x_s|x_t) that follows.

Whatever the net predicts, the prediction is one of two equivalent things, tied by x_t = α_t x_0 + σ_t ε:

    eps    x̂_0 = (x_t − σ_t ε̂)/α_t                  (Ho et al. 2020, eq. 15)
    x0     ε̂ = (x_t − α_t x̂_0)/σ_t
    v      v = α_t ε − σ_t x_0,  x̂_0 = α_t x_t − σ_t v̂,  ε̂ = σ_t x_t + α_t v̂   (Salimans & Ho 2022, app. D)
    mean   μ̃ of q(x_{t−1}|x_t,x_0), solved for x̂_0      (Ho et al. 2020, eq. 7)

and p(x_s|x_t) has the mean of q(x_s|x_t, x_0 = x̂_0) and one of four variances:

    small, large     β̃ = σ_s² c and β = σ_t² c          (Ho et al., section 3.2)
    learned_range    log β̃ + (v + 1)/2 · (log β − log β̃) with v a second output of the net   (Nichol & Dhariwal
                     2021, eq. 15, in the form of their code)
    learned          the log-variance is v itself; on a respaced chain as far from β̃ to β as it was natively
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, final, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ddpm.chain import Chain, Level, mix, spread
from ddpm.errors import UserError
from ddpm.gaussian import Gaussian

Predicts = Literal["eps", "x0", "v", "mean"]
Variance = Literal["small", "large", "learned", "learned_range"]
LEARNED = ("learned", "learned_range")


@final
class Prediction:
    """The model's view of x_t: the picture in it and the noise in it, with x_t = α_t x0 + σ_t eps.

    variance_output is what the net says of the variance, None if it says nothing. score is what a classifier adds
    to ∇ log p(x_t), None without one: x0 and eps know nothing of it, `Denoiser.reverse` and `shifted` do.
    """

    __slots__ = ("_eps", "score", "variance_output", "x0")

    def __init__(
        self,
        x0: Float[Tensor, "B *D"],
        eps: Float[Tensor, "B *D"] | Callable[[], Tensor],
        variance_output: Float[Tensor, "B *D"] | None = None,
        score: Float[Tensor, "B *D"] | None = None,
    ):
        """eps: may be what works it out when it is first asked for, since many samplers never do."""
        self.x0, self._eps, self.variance_output, self.score = x0, eps, variance_output, score

    @property
    def eps(self) -> Float[Tensor, "B *D"]:
        """The noise in x_t."""
        if not isinstance(self._eps, Tensor):
            self._eps = self._eps()
        return self._eps

    def scored(self, score: Float[Tensor, "B *D"]) -> Prediction:
        """The same with a classifier's score beside it."""
        return Prediction(self.x0, self._eps, self.variance_output, score)


Guidance = Callable[..., Prediction]
"""(model, xt, t, **cond) → the prediction to take in place of the model's own; see `guidance`."""


class Denoiser(nn.Module):
    """A net (x[B,C,*D], timestep[B], **cond) → [B,C,*D], or [B,2C,*D] where it learns the variance, on a chain.

    `clip` keeps x̂_0 in [−1, 1] and re-derives ε̂ from it. `native` is the chain the net was trained on, which the
    outputs of "mean" and "learned" refer to; it is the chain itself unless the model was respaced. A net of 2C
    channels may be given a fixed variance: its second half is then left out. `guidance` takes the place of the
    model's own predictions.
    """

    def __init__(
        self,
        net: nn.Module,
        chain: Chain,
        predicts: Predicts = "eps",
        variance: Variance = "large",
        clip: bool = True,
        native: Chain | None = None,
        guidance: Guidance | None = None,
    ):
        super().__init__()
        if predicts not in get_args(Predicts):
            raise UserError(f"--denoiser.predicts {predicts}: takes eps, x0, v or mean")
        if variance not in get_args(Variance):
            raise UserError(f"--denoiser.variance {variance}: takes small, large, learned or learned_range")
        if (predicts == "mean" or variance == "learned") and native is None and not chain.whole:
            raise ValueError(
                "a net that predicts the mean or the log-variance needs `native`, the chain it was trained on, on "
                "a respaced one"
            )
        self.net, self.chain, self.native = net, chain, native or chain
        self.predicts, self.variance, self.clip, self.guidance = predicts, variance, clip, guidance

    def forward(self, xt: Float[Tensor, "B *D"], t: Level, **cond: Any) -> Prediction:
        """What the model sees in x_t at level t ≥ 1, guided if it is."""
        return self.guidance(self, xt, t, **cond) if self.guidance else self.plain(xt, t, **cond)

    def plain(self, xt: Float[Tensor, "B *D"], t: Level, **cond: Any) -> Prediction:
        """The same without guidance."""
        return self.read(self.output(xt, t, **cond), xt, t)

    def output(self, xt: Float[Tensor, "B *D"], t: Level, **cond: Any) -> Float[Tensor, "B ..."]:
        """The net's own output, which `read` and the losses give a meaning."""
        output: Tensor = self.net(xt, self.chain.told(t, len(xt), xt.device), **cond)
        return output

    def parts(
        self, output: Float[Tensor, "B ..."], xt: Float[Tensor, "B *D"]
    ) -> tuple[Float[Tensor, "B *D"], Float[Tensor, "B *D"] | None]:
        """The net's output for the mean, and for the variance (None if there is none)."""
        if output.shape == xt.shape:
            if self.variance in LEARNED:
                raise UserError(
                    f"--denoiser.variance {self.variance}: this net gives no variance; take small or large"
                )
            return output, None
        if output.shape[1] != 2 * xt.shape[1]:
            raise ValueError(
                f"the net gives {output.shape[1]} channels for pictures of {xt.shape[1]}; it has to give as many, "
                "or twice as many where it learns the variance"
            )
        of_mean, of_variance = output.chunk(2, dim=1)
        return of_mean, of_variance

    def read(
        self, output: Float[Tensor, "B ..."], xt: Float[Tensor, "B *D"], t: Level, clip: bool | None = None
    ) -> Prediction:
        """The net's output as a prediction; clip in place of the model's own where it is given."""
        output, of_variance = self.parts(output, xt)
        alpha, sigma = self.chain.alpha(t, xt), self.chain.sigma(t, xt)
        if self.predicts == "eps":
            x0 = mix(1.0, xt, -sigma, output).mul_(1.0 / alpha)
        elif self.predicts == "x0":
            x0 = output
        elif self.predicts == "v":
            x0 = mix(alpha, xt, -sigma, output)
        else:
            of_x0, of_xt = self._native_posterior(t)
            x0 = mix(1.0, output, -spread(of_xt, xt), xt).div_(spread(of_x0, xt))
        if self.clip if clip is None else clip:
            x0 = x0.clamp(-1.0, 1.0) if self.predicts == "x0" else x0.clamp_(-1.0, 1.0)
        elif self.predicts == "eps":
            return Prediction(x0, output, of_variance)
        elif self.predicts == "v":
            return Prediction(x0, mix(sigma, xt, alpha, output), of_variance)
        return Prediction(x0, lambda: mix(1.0, xt, -alpha, x0).div_(sigma), of_variance)

    def target(self, x0: Float[Tensor, "B *D"], eps: Float[Tensor, "B *D"], t: Level) -> Float[Tensor, "B *D"]:
        """The output (its part for the mean) a perfect net would give for x_t = α_t x0 + σ_t eps."""
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
        """p(x_s|x_t) for levels s < t.

        A classifier's score moves the mean by Σ·score (Dhariwal & Nichol 2021, eq. 10).
        """
        mean = self.chain.posterior_mean(prediction.x0, xt, t, s)
        logvar: float | Tensor
        if self.variance not in LEARNED:
            logvar = spread(self.log_variance(t, s), xt)
        else:
            assert prediction.variance_output is not None  # parts() refuses a net without
            logvar = self._learned(prediction.variance_output, t, s)
        if prediction.score is not None:
            mean = mean + (math.exp(logvar) if isinstance(logvar, float) else logvar.exp()) * prediction.score
        return Gaussian(mean, logvar)

    def shifted(self, xt: Float[Tensor, "B *D"], t: Level, prediction: Prediction) -> Prediction:
        """The prediction with a classifier's score in it: ε̂ − σ_t·score (Dhariwal & Nichol 2021, algorithm 2).

        For samplers that follow the score instead of drawing from p(x_s|x_t). `clip` clips again, which the
        published code does not: x̂_0 moves by σ²/α·score, and where there is next to no signal, as at the end of
        the cosine schedule, the smallest error in the score would outweigh the picture.
        """
        if prediction.score is None:
            return prediction
        alpha, sigma = self.chain.alpha(t, xt), self.chain.sigma(t, xt)
        # not (x_t − σ_t ε̂)/α_t, whose rounding is multiplied by 1/α_t where there is next to no signal
        x0 = mix(1.0, prediction.x0, sigma * sigma / alpha, prediction.score)
        if self.clip:
            x0 = x0.clamp(-1.0, 1.0)
            eps = mix(1.0, xt, -alpha, x0).div_(sigma)
        else:
            eps = mix(1.0, prediction.eps, -sigma, prediction.score)
        return Prediction(x0, eps, prediction.variance_output)

    def log_variance(self, t: Level, s: Level) -> Any:
        """Log-variance of p(x_s|x_t) where it is fixed, float64; at s = 0 both are Chain.log_lower."""
        if self.variance == "small":
            return self.chain.log_lower(t, s)
        if isinstance(s, int):
            return self.chain.log_large(t, s) if s > 0 else self.chain.log_lower(t, s)
        return np.where(s.cpu().numpy() > 0, self.chain.log_large(t, s), self.chain.log_lower(t, s))

    def _learned(self, v: Float[Tensor, "B *D"], t: Level, s: Level) -> Float[Tensor, "B *D"]:
        """The log-variance that the net's output stands for."""
        if self.variance == "learned" and self.chain is self.native:
            return v
        lower, upper = self.chain.log_lower(t, s), self.chain.log_large(t, s)
        return spread(lower, v) + spread(upper - lower, v) * self.share(v, t)

    def share(self, v: Float[Tensor, "B *D"], t: Level) -> Float[Tensor, "B *D"]:
        """How far the log-variance of a step from t lies from its β̃ (0) to β (1), whichever the step.

        A log-variance learned for the native step t → t − 1 keeps its share on a respaced chain. The best variance
        for pictures lies between the two (Ho et al., section 3.2), and without the limits small errors would grow
        with the stride.
        """
        if self.variance == "learned_range":
            return 0.5 * (v + 1.0)
        native = self.native
        lower, upper = self._natively(lambda k: (native.log_lower(k, k - 1), native.log_large(k, k - 1)), t)
        room = np.maximum(upper - lower, 1e-30)  # a chain of one step has none
        return ((v - spread(lower, v)) / spread(room, v)).clamp(0.0, 1.0)

    def respace(self, spec: Any, grid: str = "uniform") -> Denoiser:
        """The same net on fewer levels (see Chain.respace)."""
        return self.on(self.chain.respace(spec, grid))

    def between(self, gamma: float) -> Denoiser:
        """The same net on a chain of one level, at which −log SNR is γ, within those of the native chain."""
        return self.on(self.native.between([gamma]))

    def on(self, chain: Chain) -> Denoiser:
        """The same net on a chain with levels of the native one, which all of them together are again."""
        if np.array_equal(chain.timestep, self.native.timestep):
            chain = self.native
        return Denoiser(self.net, chain, self.predicts, self.variance, self.clip, self.native, self.guidance)

    def with_variance(self, variance: Variance) -> Denoiser:
        """The same net and chain with another variance."""
        return Denoiser(self.net, self.chain, self.predicts, variance, self.clip, self.native, self.guidance)

    def over(self, net: nn.Module) -> Denoiser:
        """The same chain over another net, or the same one computed by something else."""
        return Denoiser(net, self.chain, self.predicts, self.variance, self.clip, self.native, self.guidance)

    def guided(self, guidance: Guidance | None) -> Denoiser:
        """The same net and chain, guided."""
        return Denoiser(self.net, self.chain, self.predicts, self.variance, self.clip, self.native, guidance)

    def _native_posterior(self, t: Level) -> tuple[Any, Any]:
        """Posterior weights of the step t → t − 1 on the chain the net was trained on."""
        return self._natively(lambda k: self.native.posterior_weights(k, k - 1), t)

    def _natively(self, pair: Callable[[Level], tuple[Any, Any]], t: Level) -> tuple[Any, Any]:
        """Two numbers of a native level at level t of the chain; between two levels what lies between."""
        at = self.native_level(t)
        below = np.floor(at)
        if np.array_equal(below, at):
            return pair(_as_level(at))
        above = np.minimum(below + 1.0, self.native.T)
        low, high = np.array(pair(_as_level(below))), np.array(pair(_as_level(above)))
        first, second = low + (at - below) * (high - low)
        return first, second

    def native_level(self, t: Level) -> Any:
        """Where level t of the chain is on the native one, float64: whole, but for a level between two."""
        level = t if isinstance(t, int) else t.cpu().numpy()
        return np.float64(level) if self.chain is self.native else self.native.places(self.chain)[level]


def _as_level(whole: Any) -> Level:
    return int(whole) if np.ndim(whole) == 0 else torch.from_numpy(np.asarray(whole, dtype=np.int64))
