"""Guidance of an exact denoiser by an exact classifier, and without one, against the scores of the mixture.

Everything expected here is in Ho et al.'s β notation and from `oracle` alone.
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ddpm.chain import Chain, make_chain
from ddpm.classifier import Classifier
from ddpm.denoiser import Denoiser
from ddpm.guidance import NO_CLASS, ByClassifier, ClassifierFree
from ddpm.noise import WalkNoise
from ddpm.samplers import DDIM, Ancestral, walk
from oracle import (
    Mixture,
    OracleClassifier,
    OracleNet,
    ancestral_law,
    bars,
    linear_betas,
    published_levels,
)

T = 1000
BETAS = linear_betas(T)
BAR = np.concatenate([[1.0], np.cumprod(1.0 - BETAS)])
DATA = Mixture.of(
    [0.3, 0.2, 0.1, 0.4],
    [[-0.8, 0.1], [0.7, 0.5], [0.1, -0.9], [0.4, -0.1]],
    [[0.2, 0.3], [0.15, 0.25], [0.3, 0.1], [0.2, 0.2]],
)
CLASSES = np.array([0, 1, 1, 2])
PREDICTS = ["eps", "x0", "v", "mean"]
SCALES = [0.0, 0.5, 1.0, 3.0, 10.0]
LEVELS = [1, 2, 20, 250, 700, 1000]


def points(t: int, n: int = 30) -> tuple[Tensor, Tensor]:
    """x_t where there is data and where there is none, float64 [n, 2], and labels of all classes."""
    rng = np.random.default_rng(t)
    x = DATA.noised(math.sqrt(BAR[t]), math.sqrt(1.0 - BAR[t])).sample(n, t) + 0.3 * rng.standard_normal((n, 2))
    return torch.from_numpy(x), torch.arange(n) % 3


def scores(x: Tensor, label: Tensor, bar: float) -> tuple[np.ndarray, np.ndarray]:
    """∇ log p_t(x) and ∇ log p_t(x|y), closed forms; y of −1 is any."""
    law = DATA.noised(math.sqrt(bar), math.sqrt(1.0 - bar))
    whole = law.score(x.numpy())
    given = whole.copy()
    for y in range(3):
        given[label == y] = law.part(y == CLASSES).score(x.numpy()[label == y])
    return whole, given


def unconditional(predicts: str = "eps", **options) -> Denoiser:
    return Denoiser(
        OracleNet(DATA, BETAS, predicts), Chain.from_betas(BETAS), predicts, **{"clip": False, **options}
    )


def conditional(predicts: str = "eps", **options) -> Denoiser:
    net = OracleNet(DATA, BETAS, predicts, CLASSES)
    return Denoiser(net, Chain.from_betas(BETAS), predicts, **{"clip": False, **options})


def classifier(betas: np.ndarray = BETAS) -> Classifier:
    return Classifier(OracleClassifier(DATA, betas, CLASSES), Chain.from_betas(betas))


def told(model: Denoiser | Classifier) -> list[list[float]]:
    return [call.tolist() for call in model.net.calls]


def score_of(model: Denoiser, x: Tensor, t: int, label: Tensor, bar: float) -> np.ndarray:
    """The score that samplers follow, −ε̂/σ_t."""
    prediction = model.shifted(x, t, model(x, t, label=label))
    alpha, sigma = math.sqrt(bar), math.sqrt(1.0 - bar)
    torch.testing.assert_close(alpha * prediction.x0 + sigma * prediction.eps, x, rtol=1e-10, atol=1e-10)
    return -prediction.eps.numpy() / sigma


def same(actual: np.ndarray, expected: np.ndarray, predicts: str) -> None:
    # the mean's weight of x_0 is down to 1e-4, so its rounding is 1e4 times the others'
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=(1e-7 if predicts == "mean" else 1e-10) * abs(expected).max()
    )


# -- by a classifier ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("predicts", PREDICTS)
@pytest.mark.parametrize("t", LEVELS)
def test_the_guided_score_is_the_data_s_plus_scale_times_the_classifier_s(predicts, t):
    x, label = points(t)
    whole, given = scores(x, label, BAR[t])
    assert abs(given - whole).max() > 0.01 * abs(whole).max() or t > 900
    for scale in SCALES:
        model = unconditional(predicts).guided(ByClassifier(classifier(), scale, conditional=False))
        # Bayes: ∇ log p(y|x) = ∇ log p(x|y) − ∇ log p(x)
        same(score_of(model, x, t, label, BAR[t]), whole + scale * (given - whole), predicts)


@pytest.mark.parametrize("predicts", PREDICTS)
def test_the_guided_score_on_a_respaced_chain(predicts):
    levels = published_levels("20", T)
    model = unconditional(predicts).respace("20").guided(ByClassifier(classifier(), 2.5, conditional=False))
    for k in (1, 2, 11, 20):
        x, label = points(levels[k - 1])
        bar = BAR[levels[k - 1]]
        whole, given = scores(x, label, bar)
        same(score_of(model, x, k, label, bar), whole + 2.5 * (given - whole), predicts)
    told_levels = [[levels[k - 1] - 1.0] * 30 for k in (1, 2, 11, 20)]
    assert told(model) == told(model.guidance.classifier) == told_levels


def test_a_tensor_of_levels_is_guided_as_each_of_them():
    x, label = points(300, len(LEVELS))
    model = unconditional().guided(ByClassifier(classifier(), 2.0, conditional=False))
    together = model(x, torch.tensor(LEVELS), label=label)
    shifted = model.shifted(x, torch.tensor(LEVELS), together)
    for i, t in enumerate(LEVELS):
        one = model(x[i : i + 1], t, label=label[i : i + 1])
        torch.testing.assert_close(together.score[i : i + 1], one.score, rtol=1e-10, atol=1e-12)
        exact = model.shifted(x[i : i + 1], t, one)
        torch.testing.assert_close(shifted.eps[i : i + 1], exact.eps, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(shifted.x0[i : i + 1], exact.x0, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("scale", [0.7, 1.0, 4.0])
def test_a_conditional_model_is_told_the_class_too(scale):
    """∇ log p(x|y) + s ∇ log p(y|x), and the classifier's own order of the classes."""
    order = [2, 0, 1]  # class k of the model is number order[k] of the classifier
    of = np.array(order)[CLASSES]
    judge = Classifier(OracleClassifier(DATA, BETAS, of), Chain.from_betas(BETAS))
    model = conditional().guided(ByClassifier(judge, scale, numbers=torch.tensor(order)))
    for t in (20, 400):
        x, label = points(t)
        whole, given = scores(x, label, BAR[t])
        same(score_of(model, x, t, label, BAR[t]), given + scale * (given - whole), "eps")


def test_a_scale_of_0_asks_no_classifier():
    x, label = points(100)
    for model, options in ((unconditional(), {"conditional": False}), (conditional(), {})):
        judge = classifier()
        guided = model.guided(ByClassifier(judge, 0.0, **options))(x, 100, label=label)
        plain = model(x, 100, **({"label": label} if model.net.classes is not None else {}))
        assert judge.net.calls == [] and guided.score is None
        assert torch.equal(guided.eps, plain.eps) and torch.equal(guided.x0, plain.x0)


class Spread(nn.Module):
    """An ε-oracle with a second output for the variance, which differs by place and picture."""

    def __init__(self, net: OracleNet):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return torch.cat([self.net(x, timestep), torch.tanh(3.0 * x)], dim=1)


@pytest.mark.parametrize("spec", [None, "25"])
@pytest.mark.parametrize("variance", ["small", "large", "learned_range"])
def test_ancestral_sampling_moves_its_mean_by_variance_times_score(variance, spec):
    """Dhariwal & Nichol 2021, eq. 10, with Ho et al.'s tables; at the last step, too."""
    net = OracleNet(DATA, BETAS)
    model = Denoiser(
        Spread(net) if variance == "learned_range" else net, Chain.from_betas(BETAS), "eps", variance, clip=False
    )
    levels = list(range(1, T + 1)) if spec is None else published_levels(spec, T)
    model = model if spec is None else model.respace(spec)
    bar = bars(BETAS, levels)
    beta = 1.0 - bar[1:] / bar[:-1]
    tilde = beta * (1.0 - bar[:-1]) / (1.0 - bar[1:])
    tilde[0] = tilde[1]  # Ho et al. and OpenAI take the second for the first
    scale = 1.7
    guided = model.guided(ByClassifier(classifier(), scale, conditional=False))
    for k in (1, 2, len(levels) // 2, len(levels)):
        x, label = points(levels[k - 1])
        whole, given = scores(x, label, bar[k])
        prediction = guided(x, k, label=label)
        ours, plain = guided.reverse(x, k, k - 1, prediction), model.reverse(x, k, k - 1, model(x, k))
        large = tilde[0] if k == 1 else beta[k - 1]
        sigma = {"small": tilde[k - 1], "large": large}.get(variance)
        if variance == "learned_range":
            share = 0.5 * (np.tanh(3.0 * x.numpy()) + 1.0)
            sigma = np.exp(share * math.log(beta[k - 1]) + (1.0 - share) * math.log(tilde[k - 1]))
        shift = sigma * scale * (given - whole)
        np.testing.assert_allclose(
            (ours.mean - plain.mean).numpy(), shift, rtol=1e-7, atol=1e-9 * abs(shift).max()
        )
        np.testing.assert_allclose(np.exp(np.asarray(ours.logvar)), sigma, rtol=1e-8)
        # the picture that the model sees knows nothing of it
        assert torch.equal(prediction.x0, model(x, k).x0)
    x, label = points(T)
    before, last = walk(guided, Ancestral(), x, lambda t: torch.zeros_like(x), 2, label=label)
    assert torch.equal(last.x, guided.reverse(before.x, 1, 0, guided(before.x, 1, label=label)).mean)


@pytest.mark.parametrize("predicts", ["eps", "v"])
@pytest.mark.parametrize("sampler", [DDIM(), DDIM(0.6)])
@pytest.mark.parametrize("spec", ["100", "5"])
def test_at_scale_1_the_walk_is_that_of_the_conditional_model(sampler, spec, predicts):
    """Picture by picture: the guided score is ∇ log p(x|y), so every step is the exact conditional model's."""
    x = WalkNoise(3, torch.arange(60), (2,), torch.float64)
    label = torch.arange(60) % 3
    guided = unconditional(predicts).respace(spec).guided(ByClassifier(classifier(), 1.0, conditional=False))
    for ours, theirs in zip(
        walk(guided, sampler, x(0), x, label=label),
        walk(conditional(predicts).respace(spec), sampler, x(0), x, label=label),
        strict=True,
    ):
        torch.testing.assert_close(ours.x, theirs.x, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("sampler", "steps", "y"), [(DDIM(), 120, 0), (DDIM(), 120, 1), (Ancestral(), 400, 1)])
def test_at_scale_1_samples_have_the_moments_of_their_class(sampler, steps, y):
    """Of ancestral sampling the shift Σ·score is short of the exact one by √(1 − β), at most 3 % a step."""
    count, betas = 1500, linear_betas(steps)
    guide = ByClassifier(classifier(betas), 1.0, conditional=False)
    model = Denoiser(OracleNet(DATA, betas), Chain.from_betas(betas), "eps", "large", clip=False).guided(guide)
    noise = WalkNoise(y, torch.arange(count), (2,), torch.float64)
    *_, last = walk(model, sampler, noise(0), noise, label=torch.full((count,), y))
    x = last.x.numpy()
    expected = part = DATA.part(y == CLASSES)
    if sampler == Ancestral():  # each mode is widened as it is in a lone Gaussian
        mean, var = ancestral_law(bars(betas, list(range(1, steps + 1))), part.means, part.stds, "large")
        expected = Mixture(part.weights, mean, np.sqrt(var))
    allowed = 0.015  # of discretisation
    std = np.sqrt(np.diag(expected.cov))
    assert np.all(np.abs(x.mean(0) - expected.mean) < 4 * std / math.sqrt(count) + allowed)
    true = expected.sample(200_000, 9)
    fourth = ((true - expected.mean) ** 4).mean(0)
    error = np.sqrt(fourth - std**4) / std / 2  # of a standard deviation, times the root of the count
    assert np.all(np.abs(x.std(0) - std) < 4 * error / math.sqrt(count) + allowed)
    assert np.abs(np.cov(x.T)[0, 1] - expected.cov[0, 1]) < 4 * std.prod() / math.sqrt(count) + allowed
    # the exact classifier of clean data finds as much of the other classes in them as in true ones
    others = [1.0 - p.mean() for p in (posterior(x)[:, y], posterior(true)[:, y])]
    assert abs(others[0] - others[1]) < 0.015


def posterior(x: np.ndarray) -> np.ndarray:
    """p(y|x_0), [N, 3]."""
    parts = np.exp(DATA.log_parts(x))
    shares = np.stack([parts[:, y == CLASSES].sum(1) for y in range(3)], axis=1)
    return shares / shares.sum(1, keepdims=True)


# -- classifier-free ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("predicts", PREDICTS)
@pytest.mark.parametrize("t", LEVELS)
def test_the_classifier_free_score(predicts, t):
    """∇ log p(x) + s (∇ log p(x|y) − ∇ log p(x)); a picture of no class is not guided."""
    x, label = points(t)
    label[::5] = NO_CLASS
    whole, given = scores(x, label, BAR[t])
    for scale in SCALES:
        model = conditional(predicts).guided(ClassifierFree(scale))
        same(score_of(model, x, t, label, BAR[t]), whole + scale * (given - whole), predicts)


class Counted(nn.Module):
    """A net that keeps what it was asked and answers by number: x·(1 + label), and a variance output of label."""

    def __init__(self, learned: bool = False):
        super().__init__()
        self.learned, self.asked = learned, []

    def forward(self, x: Tensor, timestep: Tensor, **cond: Tensor) -> Tensor:
        self.asked.append((x, timestep, cond))
        factor = (1.0 + cond["label"].to(x)).view(-1, *[1] * (x.ndim - 1))
        if "low" in cond:
            factor = factor + cond["low"].flatten(1).mean(1).view(factor.shape)
        return torch.cat([x * factor, factor.expand_as(x)], dim=1) if self.learned else x * factor


def counted(**options) -> Denoiser:
    return Denoiser(
        Counted(options.get("variance") == "learned_range"), Chain.from_betas(BETAS), **{"clip": False, **options}
    )


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_at_scale_1_it_is_the_conditional_model_and_at_0_the_other_asked_once(scale):
    x, label = torch.randn(5, 3, 4), torch.tensor([0, 1, 2, 0, 1])
    asked = label if scale else torch.full((5,), NO_CLASS)
    for variance in ("large", "learned_range"):
        model = counted(variance=variance)
        plain = model(x, 600, label=asked)
        guided = model.guided(ClassifierFree(scale))(x, 600, label=label)
        ((_, _, _), (seen, timestep, cond)) = model.net.asked
        assert seen is x and timestep.tolist() == [599.0] * 5 and cond["label"].tolist() == asked.tolist()
        for part in ("x0", "eps", "variance_output", "score"):
            a, b = getattr(guided, part), getattr(plain, part)
            assert a is b is None or torch.equal(a, b), part


def test_two_questions_are_one_batch():
    x, label = torch.randn(5, 3, 4), torch.tensor([0, 1, 2, 0, 1])
    low = torch.arange(10.0).view(5, 2)
    model = counted(predicts="x0")
    prediction = model.guided(ClassifierFree(3.0)).respace("10")(x, 10, label=label, low=low)
    ((seen, timestep, cond),) = model.net.asked
    assert torch.equal(seen, torch.cat([x, x])) and timestep.tolist() == [999.0] * 10
    assert cond["label"].tolist() == [0, 1, 2, 0, 1] + [NO_CLASS] * 5
    assert torch.equal(cond["low"], torch.cat([low, low]))
    means = low.mean(1)
    given, without = 1.0 + label + means, means
    expected = x * (without + 3.0 * (given - without)).view(5, 1, 1)
    torch.testing.assert_close(prediction.x0, expected, rtol=1e-5, atol=1e-5)
    levels = torch.tensor([1, 2, 3, 4, 10])
    model.guided(ClassifierFree(3.0))(x, levels, label=label)
    assert model.net.asked[1][1].tolist() == [0.0, 1.0, 2.0, 3.0, 9.0] * 2


def test_for_eps_it_is_u_plus_s_times_c_minus_u():
    x, label = torch.randn(4, 3, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 1])
    prediction = counted().guided(ClassifierFree(2.5))(x, 300, label=label)
    u, c = 0.0 * x, x * (1.0 + label).view(4, 1, 1)
    torch.testing.assert_close(prediction.eps, u + 2.5 * (c - u), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("t", [1, 300, 1000])
def test_every_parameterisation_sees_the_same_picture(t):
    x, label = points(t)
    seen = [conditional(one).guided(ClassifierFree(4.0))(x, t, label=label).x0 for one in PREDICTS]
    for other in seen[1:]:
        torch.testing.assert_close(other, seen[0], rtol=0, atol=1e-7 * seen[0].abs().max().item())


@pytest.mark.parametrize("variance", ["learned_range", "learned"])
def test_a_learned_variance_is_that_of_the_class(variance):
    x, label = torch.randn(3, 3, 4), torch.tensor([0, 1, 2])
    net = Counted(learned=True)
    model = Denoiser(net, Chain.from_betas(BETAS), variance=variance, clip=False)
    guided = model.guided(ClassifierFree(5.0))(x, 40, label=label)
    assert torch.equal(guided.variance_output, (1.0 + label).view(3, 1, 1).expand_as(x))
    assert torch.equal(guided.variance_output, model(x, 40, label=label).variance_output)
    # a fixed variance in its place has the mean alone
    assert torch.equal(model.with_variance("small").guided(ClassifierFree(5.0))(x, 40, label=label).x0, guided.x0)


@pytest.mark.parametrize("predicts", ["eps", "v"])
def test_what_is_clipped_is_the_combined_picture(predicts):
    t = 200
    x, label = points(t)
    free = conditional(predicts).guided(ClassifierFree(6.0))(x, t, label=label)
    kept = conditional(predicts, clip=True).guided(ClassifierFree(6.0))(x, t, label=label)
    inside = free.x0.abs() < 1.0
    assert not inside.all() and inside.any()
    torch.testing.assert_close(kept.x0, free.x0.clamp(-1.0, 1.0), rtol=0, atol=1e-12)
    alpha, sigma = math.sqrt(BAR[t]), math.sqrt(1 - BAR[t])
    torch.testing.assert_close(alpha * kept.x0 + sigma * kept.eps, x, rtol=1e-10, atol=1e-10)


def test_neither_of_the_two_is_clipped_alone():
    """0.9 with the class and 1.5 without are 0.3 at scale 2; clipped first they would be 0.8."""

    class Answers(nn.Module):
        def forward(self, x: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
            return torch.where(label[:, None] < 0, 1.5, 0.9).expand_as(x).to(x)

    model = Denoiser(Answers(), Chain.from_betas(BETAS), "x0").guided(ClassifierFree(2.0))
    seen = model(torch.zeros(2, 3), 500, label=torch.tensor([0, 1]))
    torch.testing.assert_close(seen.x0, torch.full((2, 3), 0.3))


def test_guidance_over_an_interval_of_the_model_s_own_levels():
    """Both ends included, and the same levels after respacing; outside it is the conditional model, asked once."""
    x, label = torch.randn(2, 3), torch.tensor([0, 2])
    levels = published_levels("10", T)
    low, high = levels[2], levels[6]
    model = counted()
    for spaced in (model.guided(ClassifierFree(2.0, (low, high))).respace("10"),):
        for k, level in enumerate(levels, 1):
            model.net.asked.clear()
            prediction = spaced(x, k, label=label)
            within = low <= level <= high
            assert [len(seen) for seen, _, _ in model.net.asked] == [4 if within else 2]
            factor = (1.0 + label) * (2.0 if within else 1.0)
            torch.testing.assert_close(prediction.eps, x * factor.view(2, 1))
    native = model.guided(ClassifierFree(2.0, (low, high)))
    for level, count in ((low - 1, 2), (low, 4), (high, 4), (high + 1, 2)):
        model.net.asked.clear()
        native(x, level, label=label)
        assert len(model.net.asked[0][0]) == count
    with pytest.raises(ValueError, match="one level for the whole batch"):
        native(x, torch.tensor([5, 6]), label=label)


def test_both_guidances_together():
    """∇ log p(x) + s (∇ log p(x|y) − ∇ log p(x)) + s' ∇ log p(y|x)."""
    for t in (5, 400):
        x, label = points(t)
        whole, given = scores(x, label, BAR[t])
        for free, by in ((2.0, 1.5), (1.0, 3.0), (0.0, 1.0)):
            model = conditional().guided(ByClassifier(classifier(), by, ClassifierFree(free)))
            same(score_of(model, x, t, label, BAR[t]), whole + (free + by) * (given - whole), "eps")


# -- the walk ----------------------------------------------------------------------------------------------


class Small(nn.Module):
    """A net of a picture and its class, with weights; of K outputs a picture as a classifier."""

    def __init__(self, outputs: int = 0):
        super().__init__()
        self.outputs, self.label, self.conv = outputs, nn.Embedding(3, 4), nn.Conv2d(2, outputs or 4, 1)

    def forward(self, x: Tensor, timestep: Tensor, label: Tensor | None = None) -> Tensor:
        out = self.conv(x) * timestep.view(-1, 1, 1, 1).cos()
        if self.outputs:
            return out.mean((2, 3))
        return out + self.label(label.clamp(min=0))[:, :, None, None]


@pytest.mark.parametrize("sampler", [DDIM(), DDIM(0.5), Ancestral()])
def test_a_guided_walk_waits_for_no_number_of_the_device(sampler):
    """On torch's meta device there are no numbers: whatever looked at one would fail."""
    model = Denoiser(Small().to("meta"), make_chain("cosine", 40), "v", "learned_range").respace("8")
    guide = ByClassifier(
        Classifier(Small(3).to("meta"), make_chain("linear", 100)),
        2.0,
        ClassifierFree(3.0, (5, 30)),
        torch.tensor([1, 2, 0], device="meta"),
    )
    x = torch.empty(4, 2, 6, 6, device="meta")
    label = torch.zeros(4, dtype=torch.long, device="meta")
    steps = list(walk(model.guided(guide), sampler, x, lambda t: torch.empty_like(x), label=label))
    assert len(steps) == 8 and steps[-1].x.device.type == "meta" and steps[-1].x.shape == x.shape
