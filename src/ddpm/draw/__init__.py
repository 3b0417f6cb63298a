"""Pixels to pictures: grids and films. Knows nothing of diffusion."""

from ddpm.draw.pictures import film, grid, picture

__all__ = ["film", "grid", "picture"]
