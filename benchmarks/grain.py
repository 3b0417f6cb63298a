"""Grain and blur: the power of fine detail in samples, as a multiple of what the training pictures have.

    python benchmarks/grain.py runs/a runs/b -n 256

The power spectrum of each picture, averaged over pictures and colours, in rings of spatial frequency (cycles a
pixel; 0.5 is the finest there is). 1 is like the data, more is grain, less is blur. Real pictures compared with as
many others of the same set stand beside it: what differs by chance.
"""

from __future__ import annotations

import argparse

import numpy as np

import ddpm
from ddpm.data import load, open_sources

RINGS = ((0.03, 0.125), (0.125, 0.25), (0.25, 0.375), (0.375, 0.5))


def power(pixels: np.ndarray) -> list[float]:
    """Mean power of uint8 [N, C, H, W] in each ring."""
    spectrum = np.abs(np.fft.fft2(pixels.astype(np.float64) / 127.5 - 1.0, norm="ortho")) ** 2
    rows, columns = np.meshgrid(*(np.fft.fftfreq(side) for side in pixels.shape[2:]), indexing="ij")
    radius, mean = np.hypot(rows, columns), spectrum.mean((0, 1))
    return [float(mean[(radius >= low) & (radius < high)].mean()) for low, high in RINGS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("-n", type=int, default=256)
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    print("cycles a pixel        " + "  ".join(f"{low:.3f}-{high:.3f}" for low, high in RINGS))
    for run in options.runs:
        model = ddpm.load(run)
        data = model.description.config.data
        source, _ = open_sources(data.path, data.labels, data.holdout)
        pictures = load(source, data.size, data.channels, crop=data.crop, background=data.background)
        chosen = np.random.default_rng(0).permutation(len(pictures))[: 2 * options.n]
        one, other = (power(pictures.rows(half, None)[0]) for half in np.array_split(chosen, 2))
        whole = power(pictures.rows(np.arange(len(pictures)), None)[0])
        drawn = power(model.sample(options.n, sampler="ddim", steps=options.steps).pixels)
        for name, values, base in ((run, drawn, whole), ("  data against data", one, other)):
            print(f"{name:<22}" + "  ".join(f"{a / b:11.2f}" for a, b in zip(values, base, strict=True)))


if __name__ == "__main__":
    main()
