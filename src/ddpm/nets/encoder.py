"""The U-Net's way down alone, with a vector at its end: ADM's classifier of noisy pictures.

Dhariwal & Nichol 2021, section 4.1: with channels 128, multipliers (1, 2, 3, 4), 4 blocks a level, attention at
32, 16 and 8 pixels, style "openai", scale_shift, resample "block" and heads of 64 channels it is their classifier
for 64 × 64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ddpm.errors import UserError
from ddpm.nets.blocks import AttentionPool, Order, Style, conv, linear, norm, time_embedding
from ddpm.nets.levels import Levels, Resample, check_size, descend, heads_at, run, saving_levels, widths_of


class Encoder(nn.Module):
    """(x[B,C,H,W], timestep[B]) → [B,K]: K numbers of a noisy picture, as the logits of its classes.

    size: height and width of the pictures, which are fixed, since the pool knows every place. outputs: K. The rest
    is explained at `UNet`.
    """

    def __init__(
        self,
        size: tuple[int, int],
        outputs: int,
        image_channels: int = 3,
        channels: int = 128,
        multipliers: Sequence[int | float] = (1, 2, 3, 4),
        blocks: int = 2,
        attention: Sequence[int] = (1, 2, 3),
        dropout: float = 0.0,
        groups: int = 32,
        patch: int = 1,
        style: Style = "openai",
        heads: int = 1,
        head_channels: int = 64,
        qkv: Order = "legacy",
        scale_shift: bool = True,
        resample: Resample = "block",
    ):
        super().__init__()
        widths, embedding = widths_of(channels, multipliers), 4 * channels
        levels = Levels(
            widths=widths,
            blocks=blocks,
            attention=tuple(attention),
            embedding=embedding,
            dropout=dropout,
            groups=groups,
            style=style,
            heads=heads,
            head_channels=head_channels,
            qkv=qkv,
            scale_shift=scale_shift,
            resample=resample,
        )
        if patch < 1:
            raise UserError(f"--net.patch {patch}: is at least 1")
        self.size, self.channels, self.patch, self.style = tuple(size), channels, patch, style
        self.checkpoint_activations, self.checkpoint_levels = False, 0
        self.stride = patch * 2 ** (len(widths) - 1)
        check_size(size, self.stride)

        self.time = nn.Sequential(
            linear(channels, embedding, style), nn.SiLU(), linear(embedding, embedding, style)
        )
        self.conv_in = conv(image_channels * patch**2, widths[0], style)
        self.down, self.downsample, _ = levels.way_down()
        width = widths[-1]
        self.middle1, self.middle2 = levels.layer(width, width, True), levels.layer(width, width, False)
        self.norm_out = norm(width, groups, style)
        places = (size[0] // self.stride) * (size[1] // self.stride)
        self.pool = AttentionPool(width, places, heads_at(width, heads, head_channels), outputs, style)

    def forward(self, x: Float[Tensor, "B C H W"], timestep: Float[Tensor, "B"]) -> Float[Tensor, "B K"]:
        if x.shape[2:] != self.size:
            raise UserError(
                f"size {x.shape[2]} × {x.shape[3]}: this classifier knows pictures of {self.size[0]} × "
                f"{self.size[1]} alone"
            )
        emb = F.silu(self.time(time_embedding(timestep, self.channels, self.style)))
        saving = saving_levels(self, len(self.down))
        h = self.conv_in(F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x)
        h = descend(self.down, self.downsample, h, emb, saving)[-1]
        save = saving == len(self.down)
        h = run(self.middle2, run(self.middle1, h, emb, save), emb, save)
        out: Tensor = self.pool(F.silu(self.norm_out(h)))
        return out
