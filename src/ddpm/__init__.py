"""Train, sample, measure and understand denoising diffusion probabilistic models."""
