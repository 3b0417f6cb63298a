"""Residual blocks that halve or double, and attention pooling, written out by hand in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from ddpm.nets.blocks import AttentionPool, ResBlock


def randomise(net: torch.nn.Module, seed: int) -> None:
    """Zero-initialised layers would hide everything behind them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in net.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)


def resized(x: torch.Tensor, resampling: str) -> torch.Tensor:
    """Means over cells of 2 × 2, or each pixel four times."""
    if resampling == "down":
        return x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2).mean((3, 5))
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3) if resampling == "up" else x


@pytest.mark.parametrize("resampling", ["none", "down", "up"])
@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize(("style", "eps"), [("ho", 1e-6), ("openai", 1e-5)])
@pytest.mark.parametrize("outputs", [4, 8])
def test_a_residual_block_that_resamples_is_the_formula(resampling, scale_shift, style, eps, outputs):
    """After normalisation and SiLU and before the first convolution; the shortcut is resampled, then mixed."""
    block = ResBlock(4, outputs, 6, 2, 0.0, style, scale_shift, resampling).eval().double()
    randomise(block, 1)
    x, emb = torch.randn(3, 4, 6, 8).double(), torch.randn(3, 6).double()
    with torch.no_grad():
        h = resized(F.silu(F.group_norm(x, 2, block.norm1.weight, block.norm1.bias, eps)), resampling)
        h = F.conv2d(h, block.conv1.weight, block.conv1.bias, padding=1)
        by_time = (emb @ block.embed.weight.T + block.embed.bias)[:, :, None, None]
        if scale_shift:
            h = F.group_norm(h, 2, block.norm2.weight, block.norm2.bias, eps)
            h = h * (1.0 + by_time[:, :outputs]) + by_time[:, outputs:]
        else:
            h = F.group_norm(h + by_time, 2, block.norm2.weight, block.norm2.bias, eps)
        h = F.conv2d(F.silu(h), block.conv2.weight, block.conv2.bias, padding=1)
        expected = resized(x, resampling)
        if outputs != 4:
            expected = F.conv2d(expected, block.shortcut.weight, block.shortcut.bias)
        torch.testing.assert_close(block(x, emb), expected + h, rtol=1e-9, atol=1e-11)


def test_a_fresh_block_that_resamples_is_the_resampling():
    x, emb = torch.randn(2, 4, 6, 4), torch.randn(2, 6)
    for resampling in ("down", "up"):
        block = ResBlock(4, 4, 6, 2, 0.0, "openai", True, resampling).eval()
        torch.testing.assert_close(block(x, emb), resized(x, resampling), rtol=1e-6, atol=1e-6)


def test_a_block_drops_before_its_last_convolution():
    """With every value dropped but for rounding, what is left is the shortcut and that convolution's bias."""
    block = ResBlock(4, 4, 6, 2, 1.0, "openai", True, "up").train()
    randomise(block, 2)
    x = torch.randn(2, 4, 3, 3)
    expected = resized(x, "up") + block.conv2.bias[:, None, None]
    torch.testing.assert_close(block(x, torch.randn(2, 6)), expected)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4)])
def test_attention_pooling_is_the_formula(heads, size):
    """The mean of all places asks, the mean and the places answer, each with its embedding; q, k, v are thirds."""
    places = size[0] * size[1]
    pool = AttentionPool(8, places, heads, 5).eval().double()
    randomise(pool, 3)
    x = torch.randn(3, 8, *size).double()
    with torch.no_grad():
        rows = x.reshape(3, 8, places)
        rows = torch.cat([rows.mean(2, keepdim=True), rows], dim=2) + pool.position.T
        q, k, v = torch.einsum("oc,bcn->bon", pool.qkv.weight, rows).add(pool.qkv.bias[:, None]).split(8, dim=1)
        q, k, v = (part.reshape(3, heads, 8 // heads, places + 1) for part in (q, k, v))
        shares = (torch.einsum("bhc,bhcn->bhn", q[..., 0], k) / math.sqrt(8 / heads)).exp()
        shares = shares / shares.sum(2, keepdim=True)
        vector = torch.einsum("bhn,bhcn->bhc", shares, v).reshape(3, 8)
        expected = vector @ pool.out.weight.T + pool.out.bias
        assert expected.shape == (3, 5)
        torch.testing.assert_close(pool(x), expected, rtol=1e-9, atol=1e-11)


def test_fresh_places_have_embeddings_of_length_one_about():
    """Normal with variance 1/channels, so that each is about as long as a normalised feature is wide."""
    pool = AttentionPool(64, 255, 1, 3)
    assert pool.position.shape == (256, 64)
    lengths = pool.position.detach().norm(dim=1)
    assert abs(lengths.mean().item() - 1.0) < 0.02 and pool.position.std().item() == pytest.approx(1 / 8, rel=0.05)
