"""A classifier of noisy pictures, p(y|x_t): a net (x[B,C,*D], timestep[B]) → logits [B,K] on a chain.

Its gradient ∇ log p(y|x_t) guides a model of pictures towards a class (Dhariwal & Nichol 2021, section 4).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ddpm.chain import Chain, Level


class Classifier(nn.Module):
    """The net and the chain whose x_t it was trained on."""

    def __init__(self, net: nn.Module, chain: Chain):
        super().__init__()
        self.net, self.chain = net, chain

    def output(self, xt: Float[Tensor, "B *D"], t: Level) -> Float[Tensor, "B K"]:
        """The logits at level t ≥ 1 of its own chain."""
        logits: Tensor = self.net(xt, self.chain.told(t, len(xt), xt.device))
        return logits

    def score(
        self, xt: Float[Tensor, "B *D"], label: Int64[Tensor, "B"], chain: Chain, t: Level
    ) -> Float[Tensor, "B *D"]:
        """∇ log p(y|x_t) with respect to x_t at level t ≥ 1 of another chain, such as a respaced one.

        The net is told the timestep at which its own chain is as noisy: the same one, if the other was made from
        the same schedule. Levels beyond its ends are taken for the ends.
        """
        # Clones made here, since a caller in inference mode has tensors that no gradient can be taken of.
        with torch.inference_mode(False), torch.enable_grad():
            x, label = xt.detach().clone().requires_grad_(), label.clone()
            logits = self.net(x, self._told(chain, t, x))
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            chosen = logits.log_softmax(1).gather(1, label[:, None]).sum()
            return torch.autograd.grad(chosen, x)[0]

    def _told(self, chain: Chain, t: Level, xt: Tensor) -> Float[Tensor, "B"]:
        level = t if isinstance(t, int) else t.cpu().numpy()
        told = np.interp(chain.gamma[level], self.chain.gamma[1:], self.chain.timestep[1:])
        if isinstance(t, int):
            return torch.full((len(xt),), float(told), device=xt.device)
        return torch.from_numpy(told).to(xt.device, torch.float32)
