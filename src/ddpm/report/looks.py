"""What a report asks of a model to show it: samples, and one picture's denoising.

Each costs a stated, bounded number of passes of the net, so that a report can be written while a training goes on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8

from ddpm.data import Pairs, made_small, smaller, to_uint8
from ddpm.denoiser import Denoiser
from ddpm.noise import Purpose, normals
from ddpm.pipeline import Pipeline
from ddpm.samples import Samples
from ddpm.units import counted

MOST_CLASSES = 100
_SAMPLERS = {
    "ddpm": "ancestral sampling",
    "ddim": "DDIM",
    "dpm++": "DPM-Solver++",
    "dpm++sde": "the SDE form of DPM-Solver++",
    "heun": "Heun's method",
    "pc": "a predictor-corrector sampler",
}
_EPS_RANGE = 3.0  # standard deviations from black to white


# -- samples -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """Samples of some classes, equally many each, in the order of `labels`; and the seconds they took."""

    samples: Samples
    labels: tuple[int, ...]
    seconds: float

    def of(self, k: int) -> npt.NDArray[np.uint8]:
        """uint8 [n, C, H, W]: those of the k-th of the labels, or all without classes."""
        each = len(self.samples) // max(1, len(self.labels))
        pixels: npt.NDArray[np.uint8] = self.samples.pixels[k * each : (k + 1) * each]
        return pixels


def draw(pipeline: Pipeline, count: int, steps: int) -> Drawn:
    """About `count` samples: of every class, or of the hundred most frequent ones.

    By the sampler that the run takes unless asked otherwise. Up to ten classes at least two each.
    """
    labels = most_frequent(pipeline.description.facts.frequencies, len(pipeline.classes))
    each = min(8, max(2 if len(labels) <= 10 else 1, count // len(labels))) if labels else count
    wanted = [k for k in labels for _ in range(each)] or None
    start = time.perf_counter()
    samples = pipeline.sample(
        each * max(1, len(labels)), steps=min(steps, pipeline.denoiser.native.T), label=wanted
    )
    return Drawn(samples, labels, time.perf_counter() - start)


def how_drawn(samples: Samples) -> str:
    """By which sampler and in how many steps: 20 steps of DPM-Solver++."""
    record = samples.record
    return f"{counted(record['steps'], 'step')} of {_SAMPLERS.get(record['sampler'], record['sampler'])}"


def most_frequent(frequencies: tuple[float, ...], classes: int, most: int = MOST_CLASSES) -> tuple[int, ...]:
    """The numbers of at most so many classes, in their own order; classes without a picture come last."""
    shares = frequencies or (1.0,) * classes
    chosen = sorted(range(classes), key=lambda k: -shares[k])[:most]
    return tuple(sorted(chosen))


@dataclass(frozen=True, eq=False)
class Enlarged:
    """What an upsampler made of small pictures, whose originals it was not told; and the seconds it took.

    held_out: whether it never trained on them. Root mean square differences in grey levels of 0 … 255: `back` of
    what it drew, made small again, from the small pictures; `off` of what it drew from the originals; `smooth` of
    the small pictures, enlarged bilinearly as the net is told them, from the originals.
    """

    pairs: Pairs
    samples: Samples
    held_out: bool
    seconds: float
    back: float
    off: float
    smooth: float


def enlarge(pipeline: Pipeline, pairs: Pairs, steps: int, held_out: bool) -> Enlarged:
    """As the run draws them unless asked otherwise, of their own classes."""
    labels = None if pairs.labels is None or not pipeline.classes else pairs.labels.tolist()
    start = time.perf_counter()
    made = pipeline.sample(
        len(pairs.small), steps=min(steps, pipeline.denoiser.native.T), label=labels, low=pairs.small
    )
    seconds = time.perf_counter() - start
    back = made_small(made.pixels, pairs.small.shape[2:])
    smooth = F.interpolate(torch.from_numpy(pairs.small).float(), pairs.whole.shape[2:], mode="bilinear").numpy()
    differences = ((back, pairs.small), (made.pixels, pairs.whole), (smooth, pairs.whole))
    return Enlarged(pairs, made, held_out, seconds, *(_apart(a, b) for a, b in differences))


def _apart(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    return float(np.sqrt(np.square(a.astype(np.float64) - b).mean()))


# -- denoising -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Denoising:
    """A picture x_0 noised to some levels, noisiest first, and what the model makes of each.

    At level t: x_t; ε̂ and x̂_0, the noise and the picture the model sees in x_t; and the mean of p(x_s|x_t), where
    s is the next level here, 0 after the last. All uint8 [C, H, W]; ε̂ is grey at 0 and black or white at ±3.
    """

    x0: npt.NDArray[np.uint8]
    levels: tuple[int, ...]
    log_snr: tuple[float, ...]
    xt: UInt8[np.ndarray, "L C H W"]
    eps: UInt8[np.ndarray, "L C H W"]
    predicted: UInt8[np.ndarray, "L C H W"]
    mean: UInt8[np.ndarray, "L C H W"]


def denoise(
    model: Denoiser,
    x0: Float[torch.Tensor, "C H W"],
    label: int | None,
    count: int = 12,
    small: tuple[int, int] | None = None,
) -> Denoising:
    """One pass of the net over `count` levels evenly spread from T to 1, all with the same noise.

    small: of an upsampler, the size of what it is told of the picture.
    """
    levels = np.unique(np.linspace(1, model.chain.T, count).round().astype(int)).tolist()
    short = model.respace(levels)
    short.eval()
    device = next(short.net.parameters()).device
    number = torch.zeros(1, dtype=torch.int64, device=device)
    t = torch.arange(short.chain.T, 0, -1)
    many = x0.to(device).expand(len(t), *x0.shape)
    noise = normals(0, Purpose.WALK, number, torch.zeros(1, dtype=torch.int64), x0.shape)[0].expand_as(many)
    cond: dict[str, Any] = {} if label is None else {"label": torch.full((len(t),), label, device=device)}
    if small is not None:
        cond["low"] = smaller(many, small)
    with torch.no_grad():
        xt = short.chain.q(many, t).sample(noise)
        seen = short(xt, t, **cond)
        mean, eps = short.reverse(xt, t, t - 1, seen).mean, seen.eps
    if len(x0) == 4:  # noise in the transparency would show the page through
        xt, mean, eps = _opaque(xt), _opaque(mean), _opaque(eps, _EPS_RANGE)
    return Denoising(
        _pixels(x0),
        tuple(levels[::-1]),
        tuple(float(-short.chain.gamma[k]) for k in t.tolist()),
        _pixels(xt),
        _pixels(eps / _EPS_RANGE),
        _pixels(seen.x0),
        _pixels(mean),
    )


def _opaque(x: torch.Tensor, full: float = 1.0) -> torch.Tensor:
    return torch.cat([x[:, :3], torch.full_like(x[:, :1], full)], dim=1)


def _pixels(x: torch.Tensor) -> npt.NDArray[np.uint8]:
    pixels: npt.NDArray[np.uint8] = to_uint8(x.float().cpu()).numpy()
    return pixels
