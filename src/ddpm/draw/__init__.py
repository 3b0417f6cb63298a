"""Pixels to pictures: grids and films. Knows nothing of diffusion."""

from ddpm.draw.pictures import beside, film, grid, picture

__all__ = ["beside", "film", "grid", "picture"]
