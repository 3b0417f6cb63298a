"""3×3 convolutions on a CPU by Winograd's minimal filtering F(4, 3) (Lavin & Gray 2016).

A tile of 4×4 results needs a patch d of 6×6 inputs and the filter g of 3×3, each transformed along both sides,

    Y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A                                   ⊙ is a sum over input channels

so 36 products do the work of 144. All three transforms and the sum are matrix products, which a CPU does near its
peak. Gradients are the transposes of the same steps. Float32 results differ from the plain convolution's by some
1e-5 of their scale, so pictures are drawn without it, but by compiled programs (`engines`), which differ anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_BT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_AT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def worth(x: Tensor, layer: nn.Conv2d) -> bool:
    """Whether it pays in training: on a CPU in float32, where it is `suited`."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and suited(x, layer)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


def suited(x: Tensor, layer: nn.Conv2d, tiles: int = 64) -> bool:
    """Whether a convolution is 3×3 at stride 1 and wide, and x in whole tiles and enough of them.

    Below these numbers the transforms cost more than the products save.
    """
    return (
        layer.kernel_size == (3, 3)
        and layer.stride == (1, 1)
        and layer.padding == (1, 1)
        and layer.dilation == (1, 1)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and min(layer.in_channels, layer.out_channels) >= 96
        and x.shape[-1] % 4 == x.shape[-2] % 4 == 0
        and x.shape[-1] * x.shape[-2] >= 256
        and x[:, 0].numel() >= 16 * tiles
    )


def convolved(x: Float[Tensor, "B C H W"], layer: nn.Conv2d) -> Float[Tensor, "B K H W"]:
    """layer(x), padded by 1; H and W are multiples of 4."""
    out: Tensor = _Winograd.apply(x, layer.weight)  # type: ignore[no-untyped-call]
    return out if layer.bias is None else out + layer.bias[:, None, None]


@final
class Frozen(nn.Module):
    """A convolution whose weights no longer change, its filters transformed once; itself where it is not `suited`.

    For compilers, whose programs have one shape: it is looked at when they trace it. They need few tiles for it to
    pay, since what lies before and after the products becomes one loop.
    """

    def __init__(self, layer: nn.Conv2d):
        super().__init__()
        self.layer = layer
        of_input, _, of_output = _matrices(layer.weight.dtype)
        self.register_buffer("filters", _filters(layer.weight.detach()).transpose(1, 2).contiguous())
        self.register_buffer("of_input", of_input)
        self.register_buffer("of_output", of_output)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K H W"]:
        if not suited(x, self.layer, tiles=1):
            plain: Tensor = self.layer(x)
            return plain
        (B, _, H, W), K = x.shape, self.layer.out_channels
        products = torch.bmm(_patches(x, self.get_buffer("of_input")), self.get_buffer("filters"))
        out = _results(products, self.get_buffer("of_output"), H // 4, W // 4).reshape(B, H, W, K)
        out = out.permute(0, 3, 1, 2)
        return out if self.layer.bias is None else out + self.layer.bias[:, None, None]


@cache
def _matrices(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Bᵀ, G and Aᵀ."""
    of_input, of_filter, of_output = (torch.tensor(one, dtype=torch.float64).to(dtype) for one in (_BT, _G, _AT))
    return of_input, of_filter, of_output


def _both(matrix: Tensor, tiles: Tensor) -> Tensor:
    """A transform along both sides of tiles [n, n, …]: [m, m, N]."""
    n, m = len(tiles), len(matrix)
    return torch.matmul(matrix, (matrix @ tiles.reshape(n, -1)).view(m, n, -1))


class _Winograd(torch.autograd.Function):
    """Tensors between the transforms have the places in a tile first, so that each is one matrix product.

    A few pictures at a time, so that what lies between two products is still in the cache.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        (B, _, H, W), K = x.shape, len(weight)
        filters, (of_input, _, of_output) = _filters(weight).transpose(1, 2), _matrices(x.dtype)
        out = x.new_empty(B, H // 4, 4, W // 4, 4, K)
        for few in _few(x):
            products = torch.bmm(_patches(x[few], of_input), filters)
            out[few].copy_(_results(products, of_output, H // 4, W // 4))
        return out.view(B, H, W, K).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        (_, C, H, W), K = x.shape, len(weight)
        of_input, of_filter, of_output = _matrices(x.dtype)
        filters, of_x, of_filters, of_weight = _filters(weight), [], None, None
        for few in _few(x):
            tiles = gradient[few].permute(0, 2, 3, 1).reshape(-1, H // 4, 4, W // 4, 4, K)
            products = _both(of_output.t(), tiles.permute(2, 4, 0, 1, 3, 5)).view(36, -1, K)
            if ctx.needs_input_grad[0]:
                patches = _both(of_input.t(), torch.bmm(products, filters).view(6, 6, -1))
                of_x.append(_overlaid(patches.view(6, 6, -1, H // 4, W // 4, C)))
            if ctx.needs_input_grad[1]:
                # Patches are made again: kept, they would be 2¼ times the input.
                patches, products = _patches(x[few], of_input), products.transpose(1, 2)
                if of_filters is None:
                    of_filters = torch.bmm(products, patches)
                else:
                    of_filters.baddbmm_(products, patches)
        if of_filters is not None:
            of_weight = _both(of_filter.t(), of_filters.view(6, 6, -1)).view(3, 3, K, C).permute(2, 3, 0, 1)
        return (torch.cat(of_x) if of_x else None), of_weight


def _few(x: Tensor) -> Iterator[slice]:
    """Some 128 tiles at a time."""
    B, _, H, W = x.shape
    count = max(1, 128 * 16 // (H * W))
    return (slice(k, k + count) for k in range(0, B, count))


def _patches(x: Tensor, of_input: Tensor) -> Tensor:
    """The transformed patches [36, tiles, C] of a picture that is padded by 1."""
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    patches = padded.unfold(1, 6, 4).unfold(2, 6, 4)  # [B, rows, columns, C, 6, 6]
    return _both(of_input, patches.permute(4, 5, 0, 1, 2, 3)).view(36, -1, x.shape[1])


def _results(products: Tensor, of_output: Tensor, rows: int, columns: int) -> Tensor:
    """What products [36, tiles, K] become: [B, rows, 4, columns, 4, K]."""
    tiles = _both(of_output, products.view(6, 6, -1)).view(4, 4, -1, rows, columns, products.shape[-1])
    return tiles.permute(2, 3, 0, 4, 1, 5)


def _filters(weight: Tensor) -> Tensor:
    """The transformed filters [36, K, C]."""
    return _both(_matrices(weight.dtype)[1], weight.permute(2, 3, 0, 1)).view(36, *weight.shape[:2])


def _overlaid(patches: Tensor) -> Tensor:
    """Patches [6, 6, B, rows, columns, C] added up where they overlap, without the padding: [B, C, H, W].

    The middle 4×4 of a patch is a tile of the picture, its rim lies in the neighbours' tiles.
    """
    B, rows, columns, C = patches.shape[2:]
    out = patches[1:5, 1:5].permute(2, 3, 0, 4, 1, 5).contiguous()  # [B, rows, 4, columns, 4, C]
    above, below = (0, slice(1, None), slice(None, -1), 3), (5, slice(None, -1), slice(1, None), 0)
    for place, given, taking, line in (above, below):
        out[:, taking, line] += patches[place, 1:5, :, given].permute(1, 2, 3, 0, 4)
        out[:, :, :, taking, line] += patches[1:5, place, :, :, given].permute(1, 2, 0, 3, 4)
        for place2, given2, taking2, line2 in (above, below):
            out[:, taking, line, taking2, line2] += patches[place, place2, :, given, given2]
    return out.view(B, 4 * rows, 4 * columns, C).permute(0, 3, 1, 2)
