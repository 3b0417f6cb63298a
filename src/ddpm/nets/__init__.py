"""Nets (x[B,C,*D], timestep[B], **cond) → [B,C,*D]; they know nothing of chains."""

from ddpm.nets.unet import UNet

__all__ = ["UNet"]
