"""The walk: which levels it visits, what it asks for and when, what it leaves alone."""

import jaxtyping
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ddpm.chain import Chain
from ddpm.denoiser import Denoiser
from ddpm.noise import WalkNoise
from ddpm.samplers import DDIM, SAMPLERS, Ancestral, make_sampler, walk
from oracle import linear_betas, published_levels
from walking import TWO, model_of, no_noise, seeded


class Learned(nn.Module):
    """An ε-net with something to learn."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self.scale * x


@pytest.mark.parametrize("sampler", [Ancestral(), DDIM(), DDIM(0.3), DDIM(1.0)])
def test_noise_is_asked_for_once_a_step_and_not_at_the_last(sampler):
    asked = []

    def noise(t: int) -> Tensor:
        asked.append(t)
        return seeded((2, 2), t)

    steps = list(walk(model_of(TWO, linear_betas(50), "5"), sampler, seeded((2, 2), 0), noise))
    assert asked == ([] if sampler == DDIM() else [5, 4, 3, 2])
    assert [(step.t, step.s) for step in steps] == [(5, 4), (4, 3), (3, 2), (2, 1), (1, 0)]
    torch.testing.assert_close(steps[-1].x, steps[-1].prediction.x0, rtol=0, atol=1e-12)
    *_, single = walk(model_of(TWO, linear_betas(50), "1"), sampler, seeded((2, 2), 0), no_noise)
    assert (single.t, single.s) == (1, 0)


def test_the_net_sees_every_kept_level_once_from_the_top():
    model = model_of(TWO, linear_betas(50), "5")
    list(walk(model, DDIM(), seeded((3, 2), 0), no_noise))
    levels = [t - 1.0 for t in published_levels("5", 50)]
    assert [call.tolist() for call in model.net.calls] == [[t] * 3 for t in reversed(levels)]


@pytest.mark.parametrize("sampler", [Ancestral(), DDIM(0.5)])
@pytest.mark.parametrize("start", [1, 3, 5])
def test_a_walk_goes_on_from_any_level(sampler, start):
    model, noise = model_of(TWO, linear_betas(50), "5"), WalkNoise(0, torch.arange(2), (2,), torch.float64)
    whole = list(walk(model, sampler, seeded((2, 2), 0), noise))
    x = seeded((2, 2), 0) if start == 5 else whole[4 - start].x
    rest = list(walk(model, sampler, x, noise, start))
    assert [(step.t, step.s) for step in rest] == [(t, t - 1) for t in range(start, 0, -1)]
    assert all(torch.equal(a.x, b.x) for a, b in zip(rest, whole[5 - start :], strict=True))


def test_a_walk_from_clean_data_has_no_steps():
    assert list(walk(model_of(TWO, linear_betas(50)), DDIM(), seeded((2, 2), 0), no_noise, 0)) == []
    for start in (-1, 51):
        with pytest.raises(ValueError, match=f"start {start}, end 0: both are levels of the chain, from 0 to 50"):
            list(walk(model_of(TWO, linear_betas(50)), DDIM(), seeded((2, 2), 0), no_noise, start))


def test_a_walk_is_lazy_and_leaves_the_start_alone():
    model, x = model_of(TWO, linear_betas(50)), seeded((2, 2), 0)
    start = x.clone()
    steps = walk(model, DDIM(), x, no_noise)
    assert iter(steps) is steps and model.net.calls == []
    for done in (1, 2):
        next(steps)
        assert len(model.net.calls) == done
    list(steps)
    assert torch.equal(x, start)


@pytest.mark.parametrize("mode", [True, False])
def test_a_walk_needs_no_gradient_and_leaves_the_mode_of_its_consumer(mode):
    model = Denoiser(Learned(), Chain.from_betas(linear_betas(30)))
    with torch.set_grad_enabled(mode):
        for step in walk(model, Ancestral(), seeded((2, 2), 0), lambda t: seeded((2, 2), t)):
            assert torch.is_grad_enabled() is mode
            assert not step.x.requires_grad and not step.prediction.eps.requires_grad
        assert torch.is_grad_enabled() is mode
        for _ in walk(model, DDIM(), seeded((2, 2), 0), no_noise):
            break  # an abandoned walk too
        assert torch.is_grad_enabled() is mode


def test_annotations_are_checked_under_pytest():
    with pytest.raises(jaxtyping.TypeCheckError):
        list(walk(model_of(TWO, linear_betas(30)), DDIM(), torch.tensor(0.0), no_noise))


class Sent(TorchDispatchMode):
    """What was sent from the host to the device, for which a GPU would be waited for."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        given, made_of = (
            {one.device.type for one in tree_leaves(part) if isinstance(one, Tensor)}
            for part in ((args, kwargs), made)
        )
        self.seen += [function] * ("cpu" in given and "meta" in given | made_of)
        return made


def test_what_is_sent_is_seen():
    with Sent() as sent:
        torch.ones(2).to("meta")
        torch.ones(2, device="meta") + torch.tensor(1.0)
    assert len(sent.seen) == 2


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("variance", ["large", "learned_range"])
def test_a_walk_waits_for_no_gpu(name, variance):
    """Coefficients are plain numbers, noise is made where the picture is; meta tensors have none to be read."""

    class Net(nn.Module):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            return torch.cat([x, x], dim=1) if variance == "learned_range" else x

    model = Denoiser(Net(), Chain.from_betas(linear_betas(50)), variance=variance).respace("5")
    noise = WalkNoise(0, torch.arange(2, device="meta"), (1, 4, 4))
    with Sent() as sent:
        *_, last = walk(model, make_sampler(name), noise(0), noise)
    assert last.s == 0 and last.x.device.type == "meta" and sent.seen == []
