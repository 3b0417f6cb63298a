"""Nets (x[B,C,*D], timestep[B], **cond) → [B,C,*D] or, to learn a variance, [B,2C,*D]; they know no chains.

The encoder's output is a vector: it classifies.
"""

from ddpm.nets.encoder import Encoder
from ddpm.nets.unet import UNet

__all__ = ["Encoder", "UNet"]
