"""Nets (x[B,C,*D], timestep[B], **cond) → [B,C,*D] or, to learn a variance, [B,2C,*D]; they know no chains."""

from ddpm.nets.unet import UNet

__all__ = ["UNet"]
