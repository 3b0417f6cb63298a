"""Exact log-likelihood by the probability-flow ODE (Song et al. 2021, "Score-based generative modeling", eq. 39).

A walk that follows ε̂ without noise, dz/du = ε̂ with z = x/α and u = σ/α, carries x_1 to x_T one to one, so that
densities follow it, too: d log p(z)/du = −div_z ε̂. The same in x itself and γ, with v̂ = α ε̂ − σ x̂_0:

    dx/dγ = ½ασ v̂        log p(x_0) = log N(x_T; 0, 1) + ∫ ½ασ div v̂ dγ + D log α_1,   γ from γ_1 to γ_T

    divergence   of v̂ as a function of x: D vector–Jacobian products, or the mean of pᵀ(∂v̂/∂x)p over probes p of
                 random signs (Hutchinson 1990), right in the mean; a picture's probes are the same all the way
    steps        K of Runge–Kutta's classical method, of order 4, evenly spaced in γ; a level between two of the
                 chain is told a timestep between theirs. The grid is fixed, so a picture's number is its own in
                 any batch. The same with K/2 steps tells the error: it falls by 16 where K doubles
    start        x_1 = α_1 x_0: what is called p(x_0) is the density, at x_0, of pictures with what noise x_1 has
                 (Song et al.: time 1e-5)
    pixels       x_0 = k/127.5 − 1 lies anywhere within half a pixel value of it, by uniform noise; then

    bits/dim = −log2 p(x_0)/D + log2 127.5     ≥ −log2 P(k)/D in the mean                     Theis et al. 2016

p is the density of what the ODE makes of noise, and so of what ddim, heun and dpm++ draw with enough steps. It is
no estimate of what the bound bounds, the law of ancestral sampling: the two share a net, and agree where its score
is exact. The net's predictions are taken as they are. `clip` is left out: the flow would have corners, which cost
the order of the method, and a divergence that jumps. Guidance is left out, too: it gives the score of no law.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ddpm.chain import Chain, mix
from ddpm.denoiser import Denoiser
from ddpm.errors import UserError
from ddpm.evaluate.likelihood import exact
from ddpm.evaluate.measuring import completed, kept_batch, on_device
from ddpm.evaluate.records import Records
from ddpm.evaluate.reference import Reference
from ddpm.evaluate.summary import Mean
from ddpm.gaussian import Gaussian
from ddpm.memory import AtOnce
from ddpm.noise import Purpose, bits, uniform
from ddpm.processes import ALONE, Processes
from ddpm.units import counted
from ddpm.walks import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = 1
"""Goes up whenever the same pictures would be measured as other numbers."""
_BIN = 127.5  # pixel values a unit of [−1, 1]
_GAIN = 15.0  # of two results of order 4 the finer one's error is about a 15th of their difference
_COST = 4  # evaluations without a derivative that one with it takes, about: for batches that end as soon
_MOST = 2**16


@dataclass(frozen=True)
class Flow:
    """How the ODE is solved: steps, an even number; probes for the divergence, 0 for the exact one."""

    steps: int = 32
    probes: int = 1

    def __post_init__(self) -> None:
        if self.steps < 2 or self.steps % 2:
            raise UserError(
                f"--ode-steps {self.steps}: takes an even number from 2, as half of them tell the error"
            )
        if not 0 <= self.probes < _MOST:
            raise UserError(f"--probes {self.probes}: takes a number from 1 to {_MOST - 1}, or exact")

    @property
    def evaluations(self) -> int:
        """Of the net, a picture, each with its derivatives: four a step, of all the steps and of half of them."""
        return 4 * self.steps + 2 * self.steps

    def words(self) -> str:
        """What the number is."""
        return f"likelihood by the probability-flow ODE, {self.detail()}"

    def detail(self) -> str:
        """How it is solved."""
        by = f"the divergence by {counted(self.probes, 'probe')}" if self.probes else "the exact divergence"
        return f"{self.steps} steps of Runge-Kutta even in log SNR, {by}"

    def about(self) -> dict[str, Any]:
        """The same as plain values, for a record and a key."""
        return {
            "kind": "ode",
            "solver": "Runge-Kutta 4, even in log SNR",
            "ode_steps": self.steps,
            "probes": self.probes or "exact",
            "from_level": 1,
            "dequantised": "uniform",
            "clip": False,
        }


class Density(NamedTuple):
    """log p of each picture, in nats, float64 on the CPU: log_p = prior + volume.

    prior is log N(x_T; 0, 1), and volume what the way there and α_1 add. coarse is log_p with half of the steps.
    noise[:, k] is σ div ε̂/D where step k begins, going up from γ_1: about the share of all directions about x_t
    that the model sees nothing but noise in.
    """

    log_p: Float[Tensor, "B"]
    prior: Float[Tensor, "B"]
    volume: Float[Tensor, "B"]
    coarse: Float[Tensor, "B"]
    noise: Float[Tensor, "B K"]

    @property
    def error(self) -> Float[Tensor, "B"]:
        """About how far log_p is off for its steps (Richardson), without what the probes add."""
        return (self.log_p - self.coarse).abs() / _GAIN


def bits_per_dim(nats: Float64[np.ndarray, "n"], dimensions: int) -> Float64[np.ndarray, "n"]:
    """Of pixels k/127.5 − 1, k = 0 … 255, from the log-density where they have uniform noise."""
    bits: np.ndarray = -nats / (dimensions * math.log(2.0)) + math.log2(_BIN)
    return bits


def dequantised(x0: Float[Tensor, "B *D"], numbers: Int64[Tensor, "B"], seed: int = 0) -> Float[Tensor, "B *D"]:
    """Pixels in [−1, 1] with uniform noise of half a pixel value to both sides, that of the picture's number."""
    u = uniform(seed, Purpose.DEQUANTISE, numbers.cpu(), 0, x0[0].numel()).view(x0.shape)
    return x0 + ((u - 0.5) / _BIN).to(x0)


def on_grid(model: Denoiser, steps: int) -> Denoiser:
    """The model on the grid of the integration: γ of the 2K + 1 ends and middles of the steps, from γ_1 to γ_T."""
    gamma = model.native.gamma
    if model.native.T == 1:
        raise UserError("a chain of one step has a single level of noise: no ODE leads from it to another")
    return model.on(model.native.between(np.linspace(gamma[1], gamma[-1], 2 * steps + 1)))


def density(
    model: Denoiser,
    x0: Float[Tensor, "B *D"],
    numbers: Int64[Tensor, "B"],
    flow: Flow = Flow(),
    seed: int = 0,
    progress: Progress | None = None,
    **cond: Any,
) -> Density:
    """log p(x_0), of pictures in [−1, 1] as they are given, with these numbers.

    The net runs in its own precision, all else in float64. progress: called with (evaluations done, in all).
    """
    x0, of = exact(x0), on_grid(model, flow.steps)
    probes = [_signs(seed, numbers, k, x0) for k in range(flow.probes)]
    done = 0

    def slope(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        nonlocal done
        made = _slope(of, x, t, probes, cond)
        done += 1
        if progress:
            progress(done, flow.evaluations)
        return made

    chain, dimensions = of.chain, x0[0].numel()
    alpha = float(chain.alpha(1, x0))
    start, first = alpha * x0, dimensions * math.log(alpha)
    fine, coarse = (_integrated(chain, start, slope, stride) for stride in (1, 2))
    prior, volume = _log_normal(fine.x), fine.volume + first
    sigma = torch.tensor([float(chain.sigma(t, x0)) for t in range(1, chain.T, 2)], dtype=torch.float64)
    noise = sigma.square() + 2.0 / dimensions * fine.slopes  # since ε̂ = σ x + α v̂
    return Density(prior + volume, prior, volume, _log_normal(coarse.x) + coarse.volume + first, noise)


class _Way(NamedTuple):
    """x_T, ∫ ½ασ div v̂ dγ, and the integrand where each step begins; the latter two on the CPU."""

    x: Float[Tensor, "B *D"]
    volume: Float[Tensor, "B"]
    slopes: Float[Tensor, "B K"]


def _integrated(
    chain: Chain, x: Tensor, slope: Callable[[Tensor, int], tuple[Tensor, Tensor]], stride: int
) -> _Way:
    """From level 1 of the grid to its top by Runge and Kutta's classical method, in steps over 2·stride levels."""
    volume, slopes = x.new_zeros(len(x)), []
    for t in range(1, chain.T, 2 * stride):
        h = float(chain.gamma[t + 2 * stride] - chain.gamma[t])
        a, in_a = slope(x, t)
        b, in_b = slope(x + 0.5 * h * a, t + stride)
        c, in_c = slope(x + 0.5 * h * b, t + stride)
        d, in_d = slope(x + h * c, t + 2 * stride)
        x = x + h / 6.0 * (a + 2.0 * (b + c) + d)
        volume = volume + h / 6.0 * (in_a + 2.0 * (in_b + in_c) + in_d)
        slopes.append(in_a)
    return _Way(x, volume.cpu().double(), torch.stack(slopes, dim=1).cpu().double())


def _slope(
    model: Denoiser, x: Tensor, t: int, probes: Sequence[Tensor], cond: dict[str, Any]
) -> tuple[Float[Tensor, "B *D"], Float[Tensor, "B"]]:
    """½ασ v̂ at level t of the grid, and its divergence: by the probes, or exact if there are none."""
    alpha, sigma = float(model.chain.alpha(t, x)), float(model.chain.sigma(t, x))
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        prediction = model.read(model.output(x.float(), t, **cond).to(x.dtype), x, t, clip=False)
        v = mix(0.5 * alpha**2 * sigma, prediction.eps, -0.5 * alpha * sigma**2, prediction.x0)
        divergence = x.new_zeros(len(x))
        if probes:
            for probe in probes:
                (product,) = torch.autograd.grad((v * probe).sum(), x, retain_graph=probe is not probes[-1])
                divergence += (product * probe).flatten(1).sum(1) / len(probes)
        else:  # a picture's v̂ depends on no other picture, so one product has a row of each one's derivative
            each = v.flatten(1).unbind(1)
            for j, component in enumerate(each):
                (row,) = torch.autograd.grad(component.sum(), x, retain_graph=j < len(each) - 1)
                divergence += row.flatten(1)[:, j]
    return v.detach(), divergence


def _signs(seed: int, numbers: Tensor, probe: int, x0: Tensor) -> Tensor:
    """A probe of each picture: ±1, like x0."""
    words = bits(seed, Purpose.PROBE, numbers.to(x0.device), probe, x0[0].numel())
    return (1 - 2 * (words >> 31)).view(x0.shape).to(x0)


def _log_normal(x: Tensor) -> Float[Tensor, "B"]:
    """log N(x; 0, 1) of each picture, on the CPU."""
    return Gaussian(torch.zeros_like(x), 0.0).log_density(x).flatten(1).sum(1).cpu().double()


# -- of a set ------------------------------------------------------------------------------------------------


def measure(
    model: Denoiser,
    flow: Flow,
    reference: Reference,
    numbers: Int64[np.ndarray, "n"],
    records: Records,
    *,
    seed: int = 0,
    batch: int | AtOnce | None = None,
    device: torch.device | None = None,
    progress: Progress | None = None,
    crew: Processes = ALONE,
) -> Density | None:
    """Measures these pictures, with uniform noise on their pixels, as `measuring.measure` does the bound.

    UserError where a density is no finite number.
    """
    device = device or torch.device("cpu")
    batch = batch or usual_batch(device, reference.size, flow)
    batch = AtOnce(batch) if isinstance(batch, int) else batch

    def some(rows: Int64[np.ndarray, "B"], tell: Progress) -> None:
        x0, which, cond = on_device(reference, rows, device)
        made = density(model, dequantised(x0, which, seed), which, flow, seed, tell, **cond)
        _check(made.log_p.numpy(), rows, reference.name)
        records.add(rows, {name: values.numpy() for name, values in made._asdict().items()})

    read = completed(partial(records.look, numbers), some, batch, flow.evaluations, progress, crew)
    return None if read is None else Density(**{name: torch.from_numpy(values) for name, values in read.items()})


def usual_batch(device: torch.device, size: tuple[int, int], flow: Flow) -> int:
    """Pictures at once, unless asked for otherwise."""
    return kept_batch(device, size, _COST * flow.evaluations)


def _check(log_p: np.ndarray, rows: Int64[np.ndarray, "B"], name: str) -> None:
    off = ~np.isfinite(log_p)
    if off.any():
        raise UserError(
            f"{name}: picture {rows[off][0]} has a log-density of {log_p[off][0]}: the net's output is not finite "
            "or changes too fast for the steps; try more --ode-steps, or another checkpoint"
        )


@dataclass(frozen=True, eq=False)
class Summary:
    """Bits/dim over n pictures, total = prior + volume + pixels, and log p in nats.

    error, worst_error: what the steps are off, in bits/dim, in the mean and at most. pixels: log2 127.5. noise:
    σ div ε̂/D, its mean over pictures, where γ is that of `gamma`.
    """

    total: Mean
    prior: Mean
    volume: Mean
    pixels: float
    log_p: Mean
    error: float
    worst_error: float
    gamma: Float64[np.ndarray, "K"]
    noise: Float64[np.ndarray, "K"]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        parts = {"prior": self.prior.to_json(), "volume": self.volume.to_json(), "pixels": self.pixels}
        return {
            "bits_per_dim": self.total.to_json(),
            "parts": parts,
            "log_density_nats": self.log_p.to_json(),
            "error_of_the_steps": {"mean": self.error, "most": self.worst_error},
            "noise": {"gamma": self.gamma.tolist(), "share": self.noise.tolist()},
        }


def summarise(model: Denoiser, flow: Flow, measured: Density, dimensions: int) -> Summary:
    """What was measured of all pictures of D numbers, summed up."""
    scale = 1.0 / (dimensions * math.log(2.0))
    prior, volume, log_p, error = (
        part.numpy() for part in (measured.prior, measured.volume, measured.log_p, measured.error)
    )
    return Summary(
        Mean.of(bits_per_dim(log_p, dimensions)),
        Mean.of(-scale * prior),
        Mean.of(-scale * volume),
        math.log2(_BIN),
        Mean.of(log_p),
        float(scale * error.mean()),
        float(scale * error.max()),
        on_grid(model, flow.steps).chain.gamma[1:-1:2],
        measured.noise.numpy().mean(0),
    )


def figure(summary: Summary, about: str = "") -> Figure:
    """The share of the directions that are noise to the model, over log SNR.

    about: of which model and pictures, in whole sentences.
    """
    from ddpm.draw.plots import Line, Panel, curves

    error = summary.total.standard_error
    total = f"{summary.total.value:.3f}" + ("" if error is None else f" ± {error:.3f}")
    share = Line("", -summary.gamma[::-1], summary.noise[::-1])
    panel = Panel("Directions that are only noise to the model", [share], "log SNR: clean on the right", "share")
    spread = "" if error is None else " ±: standard error over pictures."
    return curves([[panel]], [f"ODE: {total} bits/dim"], about + spread)
