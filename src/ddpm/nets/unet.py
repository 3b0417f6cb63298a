"""The U-Net: a picture goes down through coarser levels and up again, past what it was on the way down.

    x ── conv ── level 0 ─┬─ level 1 ─┬─ … ─┬─ middle ─┐
                          │           │     │          │
    out ── conv ── level 0 ┴─ level 1 ┴─ … ─┴──────────┘

With its defaults it is Ho et al.'s net for CIFAR-10 (2020, appendix B): 35,746,307 parameters. OpenAI's is the
same drawing with other parts (Nichol & Dhariwal 2021): style "openai", scale_shift, several heads, attention at
more levels; ADM (Dhariwal & Nichol 2021) resamples in residual blocks and has heads of 64 channels. An upsampler
is told a small picture too, which enters beside x.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ddpm.errors import UserError
from ddpm.nets.blocks import Order, Style, conv, linear, norm, time_embedding, zero
from ddpm.nets.levels import Levels, Resample, check_size, descend, run, saving_levels, widths_of


class UNet(nn.Module):
    """(x[B,C,H,W], timestep[B], label[B], low[B,L,h,w]) → [B,K,H,W], where K is C or, with a learned variance, 2C.

    Args:
        image_channels: C of the pictures.
        channels: width the time embedding starts from; `multipliers` gives each level's width as a multiple of it.
        blocks: residual blocks in a level on the way down; one more on the way up.
        attention: the levels with self-attention, 0 being the finest; the middle always has it.
        dropout: inside the residual blocks.
        groups: groups of the normalisations; must divide every width.
        patch: pictures enter as patch × patch cells of pixels stacked in the channels, and leave as such. Over
            1 it trades the finest detail for speed, which a net without a GPU can need.
        classes: number of labels; 0 for an unconditional net. The label −1 stands for no class: it adds nothing to
            the time embedding, so a net that is to draw without classes too needs no row of its own for that.
        style: whose details the parts have: "ho" or "openai" (see `blocks`).
        heads: of each self-attention; must divide the width of every level that has it.
        head_channels: channels of a head, whose number then follows from the width; 0 for `heads` everywhere.
        qkv: order of attention's channels, "legacy" or "split" (see `blocks.Attention`).
        scale_shift: the time embedding scales and shifts the normalised features instead of being added.
        resample: "conv", or "block" to halve and double inside residual blocks (see `blocks.ResBlock`).
        out_channels: K, 0 for C.
        low_channels: L of the small picture an upsampler is told; 0 for none.
    """

    def __init__(
        self,
        image_channels: int = 3,
        channels: int = 128,
        multipliers: Sequence[int | float] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (1,),
        dropout: float = 0.1,
        groups: int = 32,
        patch: int = 1,
        classes: int = 0,
        style: Style = "ho",
        heads: int = 1,
        head_channels: int = 0,
        qkv: Order = "legacy",
        scale_shift: bool = False,
        resample: Resample = "conv",
        out_channels: int = 0,
        low_channels: int = 0,
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
        self.channels, self.patch, self.classes, self.style = channels, patch, classes, style
        self.low_channels = low_channels
        self.checkpoint_activations, self.checkpoint_levels = False, 0
        self.stride = patch * 2 ** (len(widths) - 1)

        self.time = nn.Sequential(
            linear(channels, embedding, style), nn.SiLU(), linear(embedding, embedding, style)
        )
        self.label = nn.Embedding(classes, embedding) if classes else None
        self.conv_in = conv((image_channels + low_channels) * patch**2, widths[0], style)
        self.down, self.downsample, passed = levels.way_down()
        width = widths[-1]
        self.middle1, self.middle2 = levels.layer(width, width, True), levels.layer(width, width, False)

        # `up` and `upsample` are listed as they run: from the coarsest level to the finest.
        self.up, self.upsample = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths))):
            layers = nn.ModuleList()
            for _ in range(blocks + 1):
                layers.append(levels.layer(width + passed.pop(), widths[level], level in levels.attention))
                width = widths[level]
            self.up.append(layers)
            if level > 0:
                self.upsample.append(levels.upsample(width))

        self.norm_out = norm(width, groups, style)
        # Rows of one picture channel are together, so the first half of 2C channels is the first half of the rows.
        self.conv_out = zero(conv(width, (out_channels or image_channels) * patch**2, style))

    def forward(
        self,
        x: Float[Tensor, "B C H W"],
        timestep: Float[Tensor, "B"],
        label: Int64[Tensor, "B"] | None = None,
        low: Float[Tensor, "B L h w"] | None = None,
    ) -> Float[Tensor, "B K H W"]:
        check_size((x.shape[2], x.shape[3]), self.stride)
        emb = self.time(time_embedding(timestep, self.channels, self.style))
        if self.label is not None:
            if label is None:
                raise UserError("this net is class-conditional: it needs a label for every picture")
            known = self.label(label.clamp(min=0))
            emb = emb + torch.where(label[:, None] >= 0, known, torch.zeros_like(known))
        elif label is not None:
            raise UserError("this net was trained without classes: it takes no label")
        emb = F.silu(emb)
        if (low is not None) != (self.low_channels > 0):
            raise UserError(
                "this net takes no small picture"
                if low is not None
                else "this net needs a small picture to upsample"
            )
        if low is not None:
            x = torch.cat([x, F.interpolate(low, x.shape[2:], mode="bilinear")], dim=1)

        count = len(self.down)
        saving = saving_levels(self, count)
        h = self.conv_in(F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x)
        skips = descend(self.down, self.downsample, h, emb, saving)
        save = saving == count
        h = run(self.middle2, run(self.middle1, skips[-1], emb, save), emb, save)
        for i, layers in enumerate(self.up):
            save = count - 1 - i < saving
            for layer in layers:  # type: ignore[attr-defined]
                h = run(layer, torch.cat([h, skips.pop()], dim=1), emb, save)
            if i < len(self.upsample):
                h = run(self.upsample[i], h, emb, save)
        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return F.pixel_shuffle(out, self.patch) if self.patch > 1 else out
