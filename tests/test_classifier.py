"""A classifier of noisy pictures: which timestep it is told, and what its gradient is, keeps and costs."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ddpm.chain import Chain, make_chain
from ddpm.classifier import Classifier
from oracle import Mixture, OracleClassifier, cosine_betas, linear_betas, published_levels

DATA = Mixture.of([0.3, 0.2, 0.5], [[-0.8, 0.1], [0.7, 0.5], [0.1, -0.9]], [[0.2, 0.3], [0.15, 0.25], [0.3, 0.1]])
CLASSES = np.array([0, 1, 1])
BETAS = linear_betas(1000)
BAR = np.concatenate([[1.0], np.cumprod(1.0 - BETAS)])


def exact(betas: np.ndarray) -> Classifier:
    return Classifier(OracleClassifier(DATA, betas, CLASSES), Chain.from_betas(betas))


def points(n: int = 30) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(n, 2))), torch.arange(n) % 2


def score_of(x: Tensor, label: Tensor, bar: float) -> np.ndarray:
    """∇ log p_t(y|x) = ∇ log p_t(x|y) − ∇ log p_t(x), closed forms."""
    law = DATA.noised(math.sqrt(bar), math.sqrt(1.0 - bar))
    given = [law.part(y == CLASSES).score(x.numpy()) for y in range(2)]
    return np.where(label.numpy()[:, None] == 0, *given) - law.score(x.numpy())


class Recorded(nn.Module):
    """A linear classifier that keeps what it was told."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        self.asked.append(timestep)
        return x


class Small(nn.Module):
    """Three logits with weights: means over places, turned by the timestep."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return (self.conv(x) * timestep.view(-1, 1, 1, 1).cos()).mean((2, 3))


# -- what it is told ---------------------------------------------------------------------------------------


def test_on_its_own_chain_it_is_told_the_model_s_timestep():
    """t − 1, the original one after respacing, for one level or one each."""
    judge = Classifier(Recorded(), make_chain("linear", 1000))
    x, label = points(3)
    judge.output(x, 1000)
    judge.output(x, torch.tensor([1, 7, 1000]))
    judge.score(x, label, judge.chain, 1)
    judge.score(x, label, judge.chain, torch.tensor([1, 7, 1000]))
    judge.score(x, label, judge.chain.respace("50"), 50)
    judge.score(x, label, judge.chain.respace("50"), torch.tensor([1, 2, 50]))
    told = [[999.0] * 3, [0.0, 6.0, 999.0], [0.0] * 3, [0.0, 6.0, 999.0], [999.0] * 3, [0.0, 20.0, 999.0]]
    assert [timestep.tolist() for timestep in judge.net.asked] == told
    assert {timestep.dtype for timestep in judge.net.asked} == {torch.float32}


def test_a_rescaled_timestep_is_the_classifier_s_own():
    """A classifier that is told (t − 1)·1000/T, for a model that is not."""
    judge = Classifier(Recorded(), make_chain("cosine", 250, rescale=True))
    x, label = points(2)
    for k in range(1, 6):
        judge.score(x, label, make_chain("cosine", 250).respace("5"), k)
    told = [timestep.tolist() for timestep in judge.net.asked]
    assert told == [[4.0 * (t - 1)] * 2 for t in published_levels("5", 250)]


def test_on_another_chain_it_is_told_the_timestep_that_is_as_noisy():
    """Another schedule and length: where log SNR, in Ho et al.'s ᾱ, is the same, between two of its own."""
    betas, levels = cosine_betas(4000), published_levels("10", 1000)
    judge, chain = exact(betas), Chain.from_betas(BETAS).respace("10")
    bar = np.cumprod(1.0 - betas)
    log_snr = np.log(bar / (1.0 - bar))
    x, label = points()
    between = 0
    for k, level in enumerate(levels, 1):
        score = judge.score(x, label, chain, k)
        # a timestep in float32 is within 2e-4 of the one meant
        expected = score_of(x, label, BAR[level])
        np.testing.assert_allclose(score.numpy(), expected, rtol=0, atol=1e-4 * abs(expected).max())
        told = judge.net.calls[-1]
        assert told.dtype == torch.float32 and len(told) == 30 and len(told.unique()) == 1
        target = math.log(BAR[level] / (1.0 - BAR[level]))
        above = int(np.searchsorted(-log_snr, -target))
        share = (target - log_snr[above - 1]) / (log_snr[above] - log_snr[above - 1])
        assert 0.0 <= share <= 1.0 and told[0].item() == pytest.approx(above - 1 + share, abs=1e-3)
        between += 0.01 < share < 0.99
    assert between >= 8


def test_beyond_its_ends_it_is_told_the_ends():
    """A model's noisiest level, where the classifier saw half of a chain; and its cleanest."""
    betas = cosine_betas(4000)
    short = exact(betas[1000:2000])
    x, label = points(4)
    chain = Chain.from_betas(betas)
    for t in (4000, torch.full((4,), 4000), 1, torch.full((4,), 1)):
        short.score(x, label, chain, t)
    assert [call.tolist() for call in short.net.calls] == [[999.0] * 4] * 2 + [[0.0] * 4] * 2


# -- its gradient ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [1, 10, 300, 1000])
def test_the_score_is_the_gradient_of_the_log_posterior(t):
    x, label = points()
    judge = exact(BETAS)
    expected = score_of(x, label, BAR[t])
    for level in (t, torch.full((30,), t)):
        score = judge.score(x, label, judge.chain, level)
        np.testing.assert_allclose(score.numpy(), expected, rtol=0, atol=1e-12 * abs(expected).max())


def test_the_classifier_s_gradient_keeps_nothing():
    """No gradients in its weights, no graph behind the score; also where no gradient is being taken."""
    judge = Classifier(Small(), make_chain("linear", 100))
    x, label = torch.randn(4, 2, 6, 6), torch.tensor([0, 1, 2, 0])
    kept = []

    class Held:
        def __init__(self, value):
            kept.append(1)
            self.value = value

        def __del__(self):
            kept.pop()

    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.value):
        expected = judge.score(x, label, judge.chain, 50)
    assert kept == [] and not expected.requires_grad and x.requires_grad is False
    assert all(p.grad is None for p in judge.parameters())
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            assert torch.equal(judge.score(x.clone(), label.clone(), judge.chain, 50), expected)
    # each picture's own, whatever the others are
    alone = judge.score(x[1:2], label[1:2], judge.chain, 50)
    torch.testing.assert_close(alone, expected[1:2], rtol=1e-5, atol=1e-7)


def test_the_score_is_taken_in_single_precision_at_least():
    """A net in bfloat16 gives logits, not a softmax, in it; one in float64 keeps that."""
    torch.manual_seed(0)
    x, label = torch.randn(4, 2, 6, 6), torch.tensor([0, 1, 2, 0])
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.bfloat16, 0.02)):
        net = Small().to(dtype)
        score = Classifier(net, make_chain("linear", 100)).score(x.to(dtype), label, make_chain("linear", 100), 50)
        assert score.dtype == dtype
        weight = net.double().conv.weight
        logits = net(x.to(dtype).double(), torch.full((4,), 49.0))
        # d log p_y / dx = Σ_k (1[k = y] − p_k) W_k cos(49) / 36 places, which bfloat16 has only the weights of
        chosen = torch.eye(3).double()[label] - logits.softmax(1)
        by_hand = (chosen @ weight[:, :, 0, 0]) * torch.tensor(49.0).cos().item() / 36
        torch.testing.assert_close(
            score.double(),
            by_hand[:, :, None, None].expand(4, 2, 6, 6),
            rtol=tolerance,
            atol=tolerance * by_hand.abs().max().item(),
        )
