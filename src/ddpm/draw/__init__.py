"""Pixels to pictures: grids and films. Knows nothing of diffusion."""

from ddpm.draw.pictures import beside, enlarged, film, grid, picture

__all__ = ["beside", "enlarged", "film", "grid", "picture"]
