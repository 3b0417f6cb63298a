"""Weights that several processes hold a part of each (FSDP2), for nets that do not fit one device.

A block's weights are gathered while it works. What is saved is whole again, so a checkpoint does not tell how many
processes wrote it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ddpm.nets.levels import Layer


def shard(net: nn.Module) -> None:
    """Every process keeps a part of each of the net's blocks from here on; all must call this."""
    from torch.distributed.fsdp import fully_shard

    for module in net.modules():
        if isinstance(module, Layer):
            fully_shard(module)
    fully_shard(net)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, of which this process may have a part; all must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def collected(tensor: Tensor, keep: bool) -> Tensor:
    """All of a tensor in the machine's memory if it is to be kept, else nothing; all must call this.

    One after the other, so that no device has to hold more than one of them whole.
    """
    made = whole(tensor)
    return made.cpu() if keep else made.new_empty(0)


def local(tensor: Tensor) -> Tensor:
    """What this process has of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def placed(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor as `like` is kept: on its device, in its layout, of which this process keeps its part."""
    if isinstance(like, DTensor):
        return distribute_tensor(tensor.to(like.device, like.dtype), like.device_mesh, like.placements)
    return torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
