"""Winograd's convolution against the plain one."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddpm.nets.blocks import ResBlock, Upsample, allow_winograd, freeze_winograd
from ddpm.nets.winograd import Frozen, convolved, worth


def layer(inputs, outputs, dtype=torch.float64, **options):
    torch.manual_seed(0)
    return nn.Conv2d(inputs, outputs, 3, padding=1, dtype=dtype, **options)


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (2, 5, 12, 8), (3, 1, 4, 20)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_convolution_and_its_gradients(shape, layout, bias):
    one = layer(shape[1], 7, bias=bias).to(memory_format=layout)
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    plain, fast = one(x), convolved(x, one)
    torch.testing.assert_close(fast, plain, rtol=0.0, atol=1e-12)
    given = torch.randn_like(plain)
    wanted = [x, *one.parameters()]
    for a, b in zip(
        torch.autograd.grad(fast, wanted, given), torch.autograd.grad(plain, wanted, given), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0.0, atol=1e-12)


def test_a_fixed_picture_or_filter_asks_for_no_gradient():
    one, x = layer(2, 3), torch.randn(1, 2, 4, 4, dtype=torch.float64)
    (of_weight,) = torch.autograd.grad(convolved(x, one).square().sum(), one.weight)
    torch.testing.assert_close(of_weight, torch.autograd.grad(one(x).square().sum(), one.weight)[0])
    one.requires_grad_(False)
    (of_x,) = torch.autograd.grad(convolved(x.requires_grad_(), one).square().sum(), x)
    torch.testing.assert_close(of_x, torch.autograd.grad(one(x).square().sum(), x)[0])


def test_in_float32_it_is_a_little_less_precise():
    """The root-mean-square error of wide convolutions, against float64, stays below 1e-5 of the result's."""
    x = torch.randn(4, 256, 16, 16)
    one = layer(256, 128, torch.float32)
    exact = F.conv2d(x.double(), one.weight.double(), one.bias.double(), padding=1)
    scale = exact.square().mean().sqrt()
    error, plain = ((made.double() - exact).square().mean().sqrt() / scale for made in (convolved(x, one), one(x)))
    assert plain < error < 1e-5


def test_where_it_pays():
    x, one = torch.randn(8, 256, 16, 16), layer(256, 256, torch.float32)
    assert worth(x, one)
    assert not worth(x.double(), one)
    assert not worth(x.to(torch.bfloat16), one)
    assert not worth(x[:, :, :, :14], one)  # no whole tiles
    assert not worth(x[:1], one)  # too few
    assert not worth(x.reshape(32, 256, 8, 8), one)
    assert not worth(x.to("meta"), one)
    for other in (
        nn.Conv2d(256, 64, 3, padding=1),
        nn.Conv2d(256, 256, 1),
        nn.Conv2d(256, 256, 3),
        nn.Conv2d(256, 256, 3, stride=2, padding=1),
        nn.Conv2d(256, 256, 3, padding=1, groups=2),
        nn.Conv2d(256, 256, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(256, 256, 3, padding=1, dilation=2),
    ):
        assert not worth(x, other), other
    with torch.autocast("cpu", torch.bfloat16):
        assert not worth(x, one)


@pytest.mark.parametrize("kind", [ResBlock, Upsample])
def test_a_part_of_the_net_takes_it_when_it_is_allowed(kind, monkeypatch):
    taken = []
    monkeypatch.setattr("ddpm.nets.blocks.convolved", lambda x, one: taken.append(one) or convolved(x, one))
    torch.manual_seed(0)
    part = ResBlock(128, 96, 16, 32, 0.0) if kind is ResBlock else Upsample(128)
    for p in part.parameters():
        nn.init.normal_(p, std=0.05)
    fast = copy.deepcopy(part)
    allow_winograd(fast)
    x, emb = torch.randn(4, 128, 16, 16), torch.randn(4, 16)
    torch.testing.assert_close(fast(x, emb), part(x, emb), rtol=1e-4, atol=1e-4)
    assert taken == ([fast.conv1, fast.conv2] if kind is ResBlock else [fast.conv])
    # Compiled and exported graphs hold plain convolutions, which other compilers know better.
    graph = torch.export.export(fast, (x, emb)).graph
    assert sum("conv2d" in str(node.target) for node in graph.nodes) == len(
        [one for one in fast.modules() if isinstance(one, nn.Conv2d)]
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("bias", [True, False])
def test_frozen_it_is_the_convolution(layout, bias):
    one = layer(96, 97, bias=bias)
    x = torch.randn(2, 96, 16, 24, dtype=torch.float64).contiguous(memory_format=layout)
    with torch.no_grad():
        torch.testing.assert_close(Frozen(one)(x), one(x), rtol=0.0, atol=1e-11)
        for other, small in ((layer(3, 96), x[:, :3]), (one, x[:, :, :14]), (one, x[..., :8])):
            assert torch.equal(Frozen(other)(small), other(small))  # not suited: the layer itself


def test_frozen_it_can_be_exported():
    x, one = torch.randn(1, 96, 16, 16), layer(96, 96, torch.float32).requires_grad_(False)
    program = torch.export.export(Frozen(one), (x,)).module()
    torch.testing.assert_close(program(x), one(x), rtol=0.0, atol=1e-4)
    kinds = {str(node.target) for node in program.graph.nodes}
    assert "aten.bmm.default" in kinds and "aten.conv2d.default" not in kinds


@pytest.mark.parametrize("kind", [ResBlock, Upsample])
def test_a_net_that_is_frozen_computes_the_same(kind):
    part = (ResBlock(96, 96, 8, 8, 0.0) if kind is ResBlock else Upsample(96)).double().eval()
    for value in part.parameters():
        nn.init.normal_(value, std=0.1)
    allow_winograd(part)
    frozen = copy.deepcopy(part)
    freeze_winograd(frozen)
    given = [torch.randn(1, 96, 16, 16, dtype=torch.float64), torch.randn(1, 8, dtype=torch.float64)]
    assert sum(isinstance(one, Frozen) for one in frozen.modules()) == (2 if kind is ResBlock else 1)
    with torch.no_grad():
        torch.testing.assert_close(frozen(*given), part(*given), rtol=0.0, atol=1e-9)
