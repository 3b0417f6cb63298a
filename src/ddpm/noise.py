"""Addressed noise: every random number is a function of (seed, purpose, sample, step).

Nothing is consumed, so nothing has to be saved or replayed: picture k of a seed is the same in any batch, on
any number of processes and after any resume. The generator is Philox4x32-10 (Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3"): ten rounds of a keyed bijection on a 128-bit counter,

    key     = (seed low, seed high)
    counter = (block, step, sample, purpose)        block: four numbers at a time within one sample and step

Integers are bit-equal on every device; normals come from them by Box-Muller and agree to 1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIER = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
# Noise for a walk is made for several steps at once, since a call costs about as much as these many numbers.
_NUMBERS_PER_BLOCK = 1 << 17
_DRAW = 24  # bits of a step that are the level, below those that count the draws at it


class Purpose(IntEnum):
    """What a number is for: two purposes never share a counter. Values are part of every saved run."""

    WALK = 0
    LABELS = 1
    TRAIN_NOISE = 2
    TRAIN_TIME = 3
    ORDER = 4
    FLIP = 5
    DROPOUT = 6
    CROP = 7
    HELD_OUT = 8
    SPLIT = 9
    BOUND = 10
    BOUND_TIME = 11
    LABEL_DROP = 12
    KNOWN = 13
    RENOISE = 14
    STAGE = 15
    PROBE = 16
    DEQUANTISE = 17


def philox(counter: Sequence[Tensor], key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 of four int64 tensors that each hold a 32-bit word, broadcast against each other.

    Checked against the published known-answer vectors. int64 stands in for uint32, which torch computes with
    on no device: the product of two words wraps in int64 but keeps its 64 bits.
    """
    # Words are broadcast as late as can be: two of the four vary along one axis alone until the third round.
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIER[0], c2 * _MULTIPLIER[1]
        # Low words keep junk above bit 31 until they are next masked: they are only ever XORed before that.
        c0 = (p1 >> 32).bitwise_xor_(k0).bitwise_xor(c1).bitwise_and_(_MASK)
        c2 = (p0 >> 32).bitwise_xor_(k1).bitwise_xor(c3).bitwise_and_(_MASK)
        c1, c3 = p1, p0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    c0, c1, c2, c3 = torch.broadcast_tensors(c0, c1, c2, c3)  # type: ignore[no-untyped-call]
    return c0, c1 & _MASK, c2, c3 & _MASK


def _words(seed: int, purpose: Purpose, samples: Tensor, steps: Tensor, blocks: int) -> tuple[Tensor, ...]:
    """Four words for each of [steps, samples, blocks]; steps [S, 1], or [1, B] for one a sample."""
    device = samples.device
    counter = (
        torch.arange(blocks, device=device).view(1, 1, -1),
        steps.to(device).unsqueeze(-1),
        samples.view(1, -1, 1),
        torch.full((1, 1, 1), int(purpose), device=device),  # not copied there: a copy would wait for the device
    )
    seed &= 0xFFFFFFFFFFFFFFFF
    return philox(counter, (seed & _MASK, seed >> 32))


def bits(seed: int, purpose: Purpose, samples: Tensor, step: int, count: int) -> Tensor:
    """[B, count] int64 in [0, 2^32), for samples int64[B] in [0, 2^32) and a step in [0, 2^32)."""
    words = _words(seed, purpose, samples, torch.tensor([[step]]), -(-count // 4))
    return torch.stack(words, dim=-1)[0].flatten(1)[:, :count]


def uniform(seed: int, purpose: Purpose, samples: Tensor, step: int, count: int = 1) -> Tensor:
    """[B, count] float64 in (0, 1), never at either end."""
    return (bits(seed, purpose, samples, step, count).double() + 0.5) * 2.0**-32


def another_seed(seed: int, purpose: Purpose, sample: int, step: int) -> int:
    """A seed in [0, 2^64) for what has purposes of its own: it shares no number with `seed`, nor with others."""
    high, low = bits(seed, purpose, torch.tensor([sample]), step, 2)[0].tolist()
    return int(high << 32 | low)


def normals(seed: int, purpose: Purpose, samples: Tensor, steps: Tensor, shape: Sequence[int]) -> Tensor:
    """Standard normals float32 [S, B, *shape] for samples int64[B] and steps int64[S].

    Box-Muller (1958): r = sqrt(-2 ln u), r cos 2πv and r sin 2πv; u = (word + 1/2) / 2^32, so |x| < 6.8.
    """
    return _box_muller(_words(seed, purpose, samples, steps.view(-1, 1), -(-math.prod(shape) // 4)), shape)


def normals_each(seed: int, purpose: Purpose, samples: Tensor, steps: Tensor, shape: Sequence[int]) -> Tensor:
    """The same numbers, float32 [B, *shape], for samples int64[B] each at a step of its own, int64[B]."""
    return _box_muller(_words(seed, purpose, samples, steps.view(1, -1), -(-math.prod(shape) // 4)), shape)[0]


def _box_muller(words: tuple[Tensor, ...], shape: Sequence[int]) -> Tensor:
    a, b, c, d = words
    out = torch.empty((*a.shape, 4), dtype=torch.float32, device=a.device)
    for i, (u, v) in enumerate(((a, b), (c, d))):
        radius = u.to(torch.float32).add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
        # The angle is taken in (-π, π), where float32 is twice as fine as in (0, 2π).
        angle = (v - (1 << 31)).to(torch.float32).add_(0.5).mul_(2.0 * math.pi * 2.0**-32)
        torch.mul(radius, angle.cos(), out=out[..., 2 * i])
        torch.mul(radius, angle.sin_(), out=out[..., 2 * i + 1])
    return out.flatten(2)[..., : math.prod(shape)].view(*a.shape[:2], *shape)


class WalkNoise:
    """The noise of one walk: `noise(0)` starts it, `noise(t)` belongs to the transition away from level t.

    float32 [B, *shape] for samples int64[B], made for a block of steps at once and kept until another block
    is asked for. `noise(t, k)` for k = 1 … 255 is more of it, for levels below 2^24. Another
    purpose is for what else a walk draws at its steps.
    """

    def __init__(
        self,
        seed: int,
        samples: Tensor,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        purpose: Purpose = Purpose.WALK,
    ):
        self.seed, self.samples, self.shape, self.dtype = seed, samples, tuple(shape), dtype
        self.purpose = purpose
        self.steps_per_block = max(1, _NUMBERS_PER_BLOCK // max(1, len(samples) * math.prod(shape)))
        self._block: tuple[Tensor, ...] = ()
        self._first = -1

    def __call__(self, step: int, draw: int = 0) -> Tensor:
        if draw:  # what only some samplers ask for, one step at a time
            steps = torch.full((1,), draw << _DRAW | step, device=self.samples.device)
            return normals(self.seed, self.purpose, self.samples, steps, self.shape)[0].to(self.dtype)
        offset = step - self._first
        if not (self._block and 0 <= offset < len(self._block)):
            # Blocks end at the step asked for, since a walk goes down; the start is made alone.
            self._first = max(0, step - self.steps_per_block + 1)
            steps = torch.arange(self._first, step + 1, device=self.samples.device)
            made = normals(self.seed, self.purpose, self.samples, steps, self.shape).to(self.dtype)
            self._block = made.unbind(0)
            offset = step - self._first
        return self._block[offset]


def permutation(seed: int, epoch: int, count: int) -> Tensor:
    """A permutation of range(count), int64[count], for each (seed, epoch); count < 2^32.

    Sorting 63 random bits a picture; ties, of odds count²/2^64, are broken by index.
    """
    words = bits(seed, Purpose.ORDER, torch.arange(count), epoch, 2)
    return torch.argsort((words[:, 0] << 31) ^ words[:, 1], stable=True)
