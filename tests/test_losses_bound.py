"""The losses made of the bound: against what `likelihood` measures, and which half of the output each teaches."""

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from ddpm.bound import term
from ddpm.chain import make_chain
from ddpm.denoiser import Denoiser
from ddpm.errors import UserError
from ddpm.evaluate import likelihood
from ddpm.losses import Hybrid, Simple, Vlb, make_loss
from ddpm.noise import Purpose, normals

LEARNED = ["learned", "learned_range"]
ALL = ["small", "large", *LEARNED]


class Wrong(nn.Module):
    """A net of two outputs that is wrong in a known way; float32 inside, whatever it is given."""

    def forward(self, x: Tensor, timestep: Tensor, bias: float = 0.0) -> Tensor:
        x, t = x.float(), timestep.view(-1, *[1] * (x.ndim - 1)) / 1000
        return torch.cat([0.9 * x - t + bias, torch.sin(7.0 * x + t) - 2.0 + bias], dim=1)


class Given(nn.Module):
    """The output is a parameter, so that its gradient can be looked at, half by half."""

    def __init__(self, output: Tensor):
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self.output


def pixels(size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (size, 2, 3), generator=generator) / torch.tensor(127.5).double() - 1.0


def given(variance: str, predicts: str = "eps", steps: int = 1000, size: int = 6):
    """A model, pictures, levels with t = 1 among them, and noise, in float64."""
    generator = torch.Generator().manual_seed(1)
    noise, mean, v = torch.randn(3, size, 2, 3, dtype=torch.float64, generator=generator).unbind()
    chain = make_chain("cosine", steps)
    t = torch.tensor([1, 2, 5, steps // 2, steps - 1, 1])[:size]
    if variance == "learned":
        v = v + torch.from_numpy(chain.log_lower(t, t - 1)).view(-1, 1, 1)
    net = Given(torch.cat([mean, v], dim=1))
    return Denoiser(net, chain, predicts, variance), pixels(size), t, noise


# -- the value ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", ALL)
@pytest.mark.parametrize("predicts", ["eps", "x0", "v", "mean"])
def test_the_mean_over_all_levels_is_the_measured_bound(predicts, variance):
    """The same pictures, noise and net: the mean over t of T times a term is the sum that `likelihood` takes."""
    T, numbers = 25, torch.arange(4)
    model = Denoiser(Wrong(), make_chain("linear", T), predicts, variance, clip=False)
    x0 = pixels(4)
    measured = likelihood(model, x0, numbers, seed=9)
    made = []
    for t in range(1, T + 1):
        noise = normals(9, Purpose.BOUND, numbers, torch.tensor([t]), (2, 3))[0].double()
        terms = Vlb()(model, x0, torch.full((4,), t), noise)
        torch.testing.assert_close(terms.loss, T * measured.terms[:, t - 1], rtol=1e-9, atol=1e-9)
        made.append(terms.loss)
    torch.testing.assert_close(torch.stack(made).mean(0), (measured.total - measured.prior), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("simple", [Simple(), Simple("l1"), Simple("huber", "min-snr"), Simple("l2", "p2")])
@pytest.mark.parametrize("variance", LEARNED)
def test_hybrid_is_the_sum_of_the_two(variance, simple):
    model, x0, t, noise = given(variance)
    parts = simple(model, x0, t, noise), Vlb(simple)(model, x0, t, noise)
    for weight in (0.001, 0.3):
        terms = Hybrid(simple, weight)(model, x0, t, noise)
        torch.testing.assert_close(terms.loss, parts[0].loss + weight * parts[1].loss, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(terms.vlb, parts[1].loss, rtol=1e-12, atol=1e-12)
        for mse in (terms.error, parts[1].error):
            torch.testing.assert_close(mse, parts[0].error, rtol=1e-12, atol=1e-12)
        assert not terms.vlb.requires_grad and not terms.error.requires_grad
    assert parts[0].vlb is None and not parts[1].vlb.requires_grad


@pytest.mark.parametrize("steps", [1000, 4000])
def test_a_sampled_term_weighs_a_thousandth_of_the_number_of_steps(steps):
    """improved-diffusion's rescaled MSE loss: `terms["vb"] *= num_timesteps / 1000.0`."""
    model, x0, t, noise = given("learned_range", steps=steps)
    hybrid, simple = (loss(model, x0, t, noise).loss for loss in (make_loss("hybrid", 0.001, Simple()), Simple()))
    xt = model.chain.q(x0, t).sample(noise)
    unclipped = Denoiser(model.net, model.chain, "eps", "learned_range", clip=False)
    one = term(model, x0, xt, t, t - 1, unclipped(xt, t))
    torch.testing.assert_close(hybrid - simple, steps / 1000.0 * one, rtol=1e-9, atol=1e-12)


def test_the_first_level_is_the_decoder_s():
    """−log P of the pixels, by the normal distribution function, where it can be computed that way."""
    model, x0, _, noise = given("learned_range", steps=100)
    t = torch.ones(6, dtype=torch.int64)
    xt = model.chain.q(x0, 1).sample(noise)
    p = model.reverse(xt, 1, 0, Denoiser(model.net, model.chain, "eps", "learned_range", clip=False)(xt, 1))
    normal = torch.distributions.Normal(p.mean, p.std)
    upper = torch.where(x0 > 0.999, 1.0, normal.cdf(x0 + 1 / 255))
    lower = torch.where(x0 < -0.999, 0.0, normal.cdf(x0 - 1 / 255))
    expected = -(upper - lower).log2().mean((1, 2))
    torch.testing.assert_close(Vlb()(model, x0, t, noise).loss, 100 * expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("loss", [Vlb(), Hybrid()])
def test_the_bound_is_trained_unclipped(loss):
    model, x0, t, noise = given("learned_range")
    model.net.output.data[:, :2] *= 5.0
    assert model.clip and (model(model.chain.q(x0, t).sample(noise), t).x0.abs() == 1.0).any()
    free = Denoiser(model.net, model.chain, "eps", "learned_range", clip=False)
    assert torch.equal(loss(model, x0, t, noise).loss, loss(free, x0, t, noise).loss)


def test_conditions_reach_the_net():
    model = Denoiser(Wrong(), make_chain("linear", 25), "v", "learned_range")
    x0, t, noise = pixels(3), torch.tensor([1, 2, 25]), torch.ones(3, 2, 3, dtype=torch.float64)
    for loss in (Vlb(), Hybrid()):
        plain, other = (loss(model, x0, t, noise, cond) for cond in ({}, {"bias": 0.3}))
        assert torch.all(plain.loss != other.loss) and torch.all(plain.vlb != other.vlb)


# -- the gradient ------------------------------------------------------------------------------------------


def gradient(loss, model: Denoiser, x0: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Of the two halves of the output."""
    model.net.output.grad = None
    loss(model, x0, t, noise).loss.sum().backward()
    of_mean, of_variance = model.net.output.grad.chunk(2, dim=1)
    return of_mean.clone(), of_variance.clone()


@pytest.mark.parametrize("simple", [Simple(), Simple("l1", "min-snr")])
@pytest.mark.parametrize("predicts", ["eps", "x0", "v"])
@pytest.mark.parametrize("variance", LEARNED)
def test_hybrid_teaches_the_mean_by_simple_and_the_variance_by_the_bound(variance, predicts, simple):
    setting = given(variance, predicts)
    hybrid = gradient(Hybrid(simple, 0.02), *setting)
    by_simple, by_bound = gradient(simple, *setting), gradient(Vlb(simple), *setting)
    assert torch.equal(hybrid[0], by_simple[0])
    torch.testing.assert_close(hybrid[1], 0.02 * by_bound[1], rtol=1e-12, atol=1e-15)
    assert torch.all(by_simple[1] == 0)
    # the bound itself teaches both, at every level, the first included
    assert torch.all(by_bound[0] != 0) and torch.all(by_bound[1] != 0)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_bound_of_a_fixed_variance_teaches_the_mean(variance):
    of_mean, of_variance = gradient(Vlb(), *given(variance))
    assert torch.all(of_mean != 0) and torch.all(of_variance == 0)


@pytest.mark.parametrize("variance", LEARNED)
def test_gradients_of_the_bound_are_those_of_its_value(variance):
    model, x0, t, noise = given(variance, "v", size=3)

    def value(output: Tensor) -> Tensor:
        return Vlb()(Denoiser(lambda_net(output), model.chain, "v", variance), x0, t, noise).loss / 1000

    assert torch.autograd.gradcheck(value, (model.net.output.detach().requires_grad_(),), rtol=1e-4, atol=1e-6)


def lambda_net(output: Tensor) -> nn.Module:
    net = nn.Identity()
    net.forward = lambda x, timestep: output
    return net


def test_single_precision_is_near_enough():
    """Training runs in float32; at 4,000 steps neighbouring variances differ in the fourth digit."""
    model, x0, t, noise = given("learned_range", "v", steps=4000)
    exact, in_double = Hybrid()(model, x0, t, noise), gradient(Hybrid(), model, x0, t, noise)
    single = Denoiser(Given(model.net.output.detach().float()), model.chain, "v", "learned_range")
    ours = Hybrid()(single, x0.float(), t, noise.float())
    torch.testing.assert_close(ours.loss.double(), exact.loss, rtol=2e-3, atol=1e-4)
    for a, b in zip(gradient(Hybrid(), single, x0.float(), t, noise.float()), in_double, strict=True):
        assert (a.double() - b).norm() < 2e-3 * b.norm()


# -- names and errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", ["small", "large"])
def test_hybrid_needs_a_variance_to_teach(variance):
    with pytest.raises(UserError, match=f"--loss.kind hybrid: teaches a variance, and {variance} is fixed; take"):
        Hybrid()(*given(variance))


def test_losses_by_name():
    simple = Simple("l1", "p2")
    assert make_loss("simple", 0.5, simple) is simple
    assert make_loss("hybrid", 0.5, simple) == Hybrid(simple, 0.5)
    assert make_loss("vlb", 0.5, simple) == Vlb(simple)
    assert Hybrid().weight == 0.001
    with pytest.raises(UserError, match=r"--loss.kind elbo: takes simple, hybrid or vlb"):
        make_loss("elbo", 0.5, simple)


def test_annotations_are_checked_under_pytest():
    model, x0, t, noise = given("learned_range")
    for loss in (Vlb(), Hybrid()):
        with pytest.raises(jaxtyping.TypeCheckError):
            loss(model, x0, t[:2], noise)
