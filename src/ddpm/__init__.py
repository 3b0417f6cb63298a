"""Train, sample, measure and understand denoising diffusion probabilistic models.

    model = ddpm.load("fashion")
    model.sample(16, steps=50, seed=0).save("garments")

Names are imported when they are first used, so that `ddpm --help` needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ddpm.version import __version__

if TYPE_CHECKING:
    from ddpm.chain import Chain
    from ddpm.denoiser import Denoiser
    from ddpm.errors import UserError
    from ddpm.guide import Guide
    from ddpm.loading import load, load_classifier
    from ddpm.nets import UNet
    from ddpm.pipeline import Pipeline
    from ddpm.samplers import DDIM, Ancestral, walk
    from ddpm.samples import Samples

_HOME = {
    "Ancestral": "ddpm.samplers",
    "Chain": "ddpm.chain",
    "DDIM": "ddpm.samplers",
    "Denoiser": "ddpm.denoiser",
    "Guide": "ddpm.guide",
    "Pipeline": "ddpm.pipeline",
    "Samples": "ddpm.samples",
    "UNet": "ddpm.nets",
    "UserError": "ddpm.errors",
    "load": "ddpm.loading",
    "load_classifier": "ddpm.loading",
    "walk": "ddpm.samplers",
}

__all__ = [
    "DDIM",
    "Ancestral",
    "Chain",
    "Denoiser",
    "Guide",
    "Pipeline",
    "Samples",
    "UNet",
    "UserError",
    "__version__",
    "load",
    "load_classifier",
    "walk",
]


def __dir__() -> list[str]:
    return [*globals(), *__all__]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ddpm' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
