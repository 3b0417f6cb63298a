"""What a model is worth, in numbers: bits/dim, rate and distortion, and the walks that follow from them."""

from ddpm.evaluate.likelihood import Bits, Estimate, bound_levels, estimate, likelihood

__all__ = ["Bits", "Estimate", "bound_levels", "estimate", "likelihood"]
