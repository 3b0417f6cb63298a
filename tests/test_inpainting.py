"""Inpainting: its law on Gaussians, known in closed form, how near that is to the conditional, and the files."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

import ddpm
import tiny
from ddpm.chain import Chain
from ddpm.denoiser import Denoiser
from ddpm.errors import UserError
from ddpm.guide import Guide
from ddpm.inpainting import Inpainting, repaint, visits
from ddpm.samplers import DDIM, Ancestral
from ddpm.store import Facts
from oracle import Mixture, linear_betas
from test_draw_plots import check_layout
from test_walks import Placed

RNG = np.random.default_rng(0)
SOURCE = RNG.integers(0, 256, (1, 8, 8), dtype=np.uint8)
MASK = np.zeros((8, 8), bool)
MASK[2:7, 3:] = True


# -- the path --------------------------------------------------------------------------------------------------


def test_paths_by_hand():
    assert visits(4, 10, 1) == visits(4, 3, 1) == [4, 3, 2, 1, 0]
    assert visits(5, 2, 2) == [5, 4, 3, 5, 4, 3, 2, 1, 3, 2, 1, 0]
    assert visits(3, 1, 3) == [3, 2, 3, 2, 3, 2, 1, 2, 1, 2, 1, 0]
    assert visits(3, 2, 2) == [3, 2, 1, 3, 2, 1, 0]
    assert visits(1, 1, 1) == [1, 0]


@pytest.mark.parametrize("T, jump, resample", [(250, 10, 10), (100, 10, 5), (50, 7, 3), (13, 12, 2), (9, 1, 4)])
def test_every_stretch_is_walked_as_often(T, jump, resample):
    path = visits(T, jump, resample)
    moves = list(pairwise(path))
    assert path[0] == T and path[-1] == 0 and 0 not in path[:-1]
    assert all(s == t - 1 or s == t + jump for t, s in moves)
    stretches = (T - 1) // jump  # above level 1, below which nothing is drawn twice
    for t in range(1, T + 1):
        repeated = 1 < t <= 1 + stretches * jump
        assert moves.count((t, t - 1)) == (resample if repeated else 1)


def test_the_published_number_of_evaluations():
    """Lugmayr et al. 2022, T = 250, jumps of 10, r = 10: 24 places to jump from, nine times each, ten steps."""
    assert sum(s < t for t, s in pairwise(visits(250, 10, 10))) == 250 + 24 * 9 * 10


# -- a Gaussian whose parts depend on each other ---------------------------------------------------------------


def bars(steps):
    return np.concatenate([[1.0], np.cumprod(1.0 - linear_betas(steps))])


BAR = bars(40)
MEAN = np.array([0.4, -0.3, 0.2, 0.1])
FACTOR = np.array([[0.5, 0.0, 0.0, 0.0], [0.4, 0.3, 0.0, 0.0], [0.3, 0.0, 0.3, 0.0], [-0.4, 0.2, 0.1, 0.2]])
COV = FACTOR @ FACTOR.T
HOLE = np.array([False, True, False, True])
KNOWN = np.array([0.9, 0.0, -0.5, 0.0])


class Correlated(torch.nn.Module):
    """The perfect net for N(MEAN, COV): (x[B, 1, 2, 2], timestep[B]) → E[ε|x_t], E[x_0|x_t] or E[v|x_t]."""

    def __init__(self, predicts="eps", bar=BAR):
        super().__init__()
        self.predicts, self.bar = predicts, bar
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, timestep):
        bar = self.bar[int(timestep[0]) + 1]
        a, sigma = np.sqrt(bar), np.sqrt(1 - bar)
        flat = x.flatten(1).double().numpy()
        x0 = MEAN + (flat - a * MEAN) @ gain(bar).T
        eps = (flat - a * x0) / sigma
        out = {"eps": eps, "x0": x0, "v": a * eps - sigma * x0}[self.predicts]
        return torch.from_numpy(out).view(x.shape).to(x)


def gain(bar):
    """d E[x_0|x_t]/d x_t, by conditioning the joint Gaussian."""
    a = np.sqrt(bar)
    return a * COV @ np.linalg.inv(a**2 * COV + (1 - bar) * np.eye(4))


def law_along(levels, path, step):
    """Mean and covariance of x after each step down of algorithm 1, in Ho et al.'s notation.

    step(now, before) → the weights of E[x_0|x_t] and of x_t, and the variance of the noise.
    """
    keep, m, c = ~HOLE, np.zeros(4), np.eye(4)
    for t, s in pairwise(path):
        now, then = BAR[levels[t]], BAR[levels[s]]
        if s > t:  # several steps of q at once
            m, c = np.sqrt(then / now) * m, then / now * c + (1 - then / now) * np.eye(4)
            continue
        of_x0, of_xt, variance = step(now, then)
        g = gain(now)
        slope = of_x0 * g + of_xt * np.eye(4)
        m = slope @ m + of_x0 * (MEAN - g @ MEAN * np.sqrt(now))
        c = slope @ c @ slope.T + (variance if s else 0.0) * np.eye(4)
        # the known part is drawn by itself: it depends on nothing
        m = np.where(keep, np.sqrt(then) * KNOWN, m)
        c = np.where(keep[:, None] | keep[None], 0.0, c) + np.diag(keep * (1 - then))
        yield t, s, m, c


def ancestral(large):
    def step(now, before):
        beta = 1 - now / before
        of_x0 = np.sqrt(before) * beta / (1 - now)
        of_xt = np.sqrt(1 - beta) * (1 - before) / (1 - now)
        return of_x0, of_xt, beta * (1.0 if large else (1 - before) / (1 - now))

    return step


def ddim(eta):
    """Song et al. 2020, eq. 12 and 16."""

    def step(now, before):
        noise = eta**2 * (1 - before) / (1 - now) * (1 - now / before)
        rest = np.sqrt(1 - before - noise)
        return np.sqrt(before) - rest * np.sqrt(now / (1 - now)), rest / np.sqrt(1 - now), noise

    return step


def law_of_ours(sampler, variance, spec, jump, resample, predicts="eps"):
    """The same of our walk: it is affine in its noise, so impulses give the mean and covariance."""
    model = Denoiser(
        Correlated(predicts), Chain.from_betas(linear_betas(40)), predicts, variance, clip=False
    ).respace(spec)
    path = visits(model.chain.T, jump, resample)
    downs = sum(s < t for t, s in pairwise(path))
    count = 3 * (downs + 1) * 4
    asked = [[], [], []]

    def impulses(kind):
        def noise(address):
            asked[kind].append(address)
            x = torch.zeros(1 + count, 4, dtype=torch.float64)
            first = 1 + (kind * (downs + 1) + address) * 4
            x[first : first + 4] = torch.eye(4)
            return x.view(-1, 1, 2, 2)

        return noise

    x0, hole = torch.from_numpy(KNOWN).view(1, 1, 2, 2), torch.from_numpy(HOLE).view(2, 2)
    steps = repaint(model, sampler, x0, hole, *(impulses(kind) for kind in range(3)), jump, resample)
    for step in steps:
        x = step.x.flatten(1).numpy()
        moved = x[1:] - x[0]
        yield step.t, step.s, x[0], moved.T @ moved
    for addresses in asked:  # nothing is drawn twice
        assert len(set(addresses)) == len(addresses) and all(0 <= one <= downs for one in addresses)


@pytest.mark.parametrize(
    "sampler, variance, step, predicts",
    [
        (Ancestral(), "small", ancestral(False), "eps"),
        (Ancestral(), "large", ancestral(True), "v"),
        (DDIM(), "large", ddim(0.0), "x0"),
        (DDIM(0.6), "small", ddim(0.6), "eps"),
    ],
)
@pytest.mark.parametrize("spec, jump, resample", [("12", 3, 4), ([1, 5, 40], 1, 3), (range(1, 41), 1, 1)])
def test_the_law_of_every_level_on_the_path(sampler, variance, step, spec, jump, resample, predicts):
    levels = [0, *Chain.from_betas(linear_betas(40)).respace(spec).timestep[1:].astype(int) + 1]
    path = visits(len(levels) - 1, jump, resample)
    ours = law_of_ours(sampler, variance, spec, jump, resample, predicts)
    for (t, s, m, c), (at, to, mean, cov) in zip(ours, law_along(levels, path, step), strict=True):
        assert (t, s) == (at, to)
        np.testing.assert_allclose(m, mean, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(c, cov, rtol=1e-8, atol=1e-9)
    assert s == 0 and np.array_equal(m[~HOLE], KNOWN[~HOLE]) and not c[~HOLE].any()


def painted(net, steps, jump, resample, n, x0):
    """n times the walk itself; what it asks for noise is known to be asked once."""
    model = Denoiser(net, Chain.from_betas(linear_betas(steps)), "eps", "small", clip=False)
    generator = torch.Generator().manual_seed(0)

    def noise(_):
        return torch.randn(n, 1, 2, 2, generator=generator)

    known, hole = torch.from_numpy(x0).float().view(1, 1, 2, 2), torch.from_numpy(HOLE).view(2, 2)
    *_, last = repaint(model, Ancestral(), known, hole, noise, noise, noise, jump, resample)
    assert torch.equal(last.x[:, ~hole[None]], known[:, ~hole[None]].expand(n, -1))
    return last.x.flatten(1).double().numpy()


def test_resampling_brings_the_law_to_the_conditional():
    """Of the unknown numbers given the known ones, by Schur's complement; on a finer chain they come nearer."""
    on = COV[np.ix_(HOLE, ~HOLE)] @ np.linalg.inv(COV[np.ix_(~HOLE, ~HOLE)])
    mean = MEAN[HOLE] + on @ (KNOWN - MEAN)[~HOLE]
    cov = COV[np.ix_(HOLE, HOLE)] - on @ COV[np.ix_(~HOLE, HOLE)]
    n, off = 1000, []
    for steps, resample in ((40, 1), (40, 5), (100, 6)):
        x = painted(Correlated(bar=bars(steps)), steps, 1, resample, n, KNOWN)[:, HOLE]
        off.append(np.abs(x.mean(0) - mean).max())
    error = 4 * np.sqrt(cov.diagonal().max() / n)
    assert off[0] > 0.35 and off[1] < 0.25 and off[2] < 0.15 + error, off
    np.testing.assert_allclose(np.cov(x.T), cov, atol=0.025 + 4 * 0.09 * np.sqrt(2 / n))


def test_what_is_known_decides_between_the_components():
    """Two components, further apart in what is not known: that is settled first, and has to be unsettled again."""
    means = np.array([[0.6, -0.9, 0.6, 0.8], [-0.6, 0.9, -0.6, -0.8]])
    data, n, right = Mixture.of([1, 1], means, [0.1, 0.1]), 500, []
    for resample in (1, 4, 12):
        x = painted(Placed(data, linear_betas(40)), 40, 4, resample, n, np.array([0.6, 0.0, 0.6, 0.0]))[:, HOLE]
        inside = np.abs(x - means[0, HOLE]).max(1) < 0.4
        right.append(inside.mean())
    assert right[0] < 0.9 and 0.95 < right[1] <= right[2] and right[2] > 0.99, right
    # given its component the unknown numbers do not depend on the known ones
    assert np.abs(x[inside].mean(0) - means[0, HOLE]).max() < 4 * 0.1 / np.sqrt(n)


# -- as a user sees it -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return ddpm.load(tiny.run(tmp_path_factory.mktemp("zoo") / "zoo").folder, "cpu")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    run = tiny.run(tmp_path_factory.mktemp("plain") / "plain", Facts("zoo", 10), data__channels=3)
    return ddpm.load(run.folder, "cpu")


def close(a, b):
    return a.shape == b.shape and np.mean(np.abs(a.astype(int) - b.astype(int)) <= 1) >= 0.999


SOME = {"steps": 6, "jump": 2, "resample": 3, "label": "cat"}


@pytest.mark.parametrize("sampler, eta", [("ddim", 0.0), ("ddim", 0.7), ("ddpm", None)])
def test_a_picture_is_the_same_in_any_company(model, sampler, eta):
    options = {**SOME, "sampler": sampler, "seed": 5, **({} if eta is None else {"eta": eta})}
    whole = model.inpaint(SOURCE, MASK, 5, **options)
    assert whole.pixels.shape == (5, 1, 8, 8) and whole.label == 2
    assert (whole.pixels[:, :, ~MASK] == SOURCE[:, ~MASK]).all()
    for n, batch in ((5, 2), (3, None), (1, 1)):
        assert close(model.inpaint(SOURCE, MASK, n, batch=batch, **options).pixels, whole.pixels[:n])
    painted = whole.pixels[:, 0, MASK].astype(int)
    for i in range(5):
        for j in range(i):
            assert np.mean(np.abs(painted[i] - painted[j]) > 5) > 0.3
    other = model.inpaint(SOURCE, MASK, 1, **{**options, "seed": 6}).pixels[0, 0, MASK].astype(int)
    assert np.mean(np.abs(painted[0] - other) > 5) > 0.3


@pytest.mark.parametrize("loss", ["simple", "hybrid"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_all_painted_anew_in_one_way_down_is_a_sample(tmp_path, loss, sampler):
    """For a model that learned its variance, too."""
    variance = "large" if loss == "simple" else "learned_range"
    run = tiny.run(tmp_path / "zoo", loss__kind=loss, denoiser__variance=variance)
    model = ddpm.load(run.folder, "cpu")
    options = {"sampler": sampler, "steps": 9, "seed": 3, "label": "ant"}
    drawn = model.inpaint(SOURCE, np.ones((8, 8), bool), 3, resample=1, **options)
    assert np.array_equal(drawn.pixels, model.sample(3, **options).pixels)


def test_resampling_changes_what_is_painted(model):
    pictures = [
        model.inpaint(SOURCE, MASK, 1, **{**SOME, "jump": jump, "resample": resample}).pixels[0, 0, MASK]
        for jump, resample in ((2, 1), (2, 2), (2, 3), (3, 3))
    ]
    for i, one in enumerate(pictures):
        for other in pictures[:i]:
            assert not np.array_equal(one, other)
    again = [model.inpaint(SOURCE, MASK, 1, **{**SOME, "jump": jump, "resample": 1}).pixels for jump in (2, 30)]
    assert np.array_equal(*again)  # without a jump there is none to be long


def test_defaults_progress_and_colour(plain):
    seen = []
    image = Image.fromarray(RNG.integers(0, 256, (16, 24, 3), dtype=np.uint8))
    made = plain.inpaint(image, "left", 2, progress=lambda *now: seen.append(now))
    steps = 40 + 7 * 5 * 4  # a chain of 40 has levels 1, 6, … 31 to jump from, four times each
    assert seen == [(k, steps) for k in range(1, steps + 1)]
    assert made.record["sampler"] == "ddim" and made.record["steps"] == 40
    assert (made.record["jump"], made.record["resample"], made.record["painted"]) == (5, 5, 0.5)
    assert made.label is None and len(made.images()) == 2 and made.pixels.shape == (2, 3, 8, 8)
    expected = np.asarray(image.resize((8, 8), Image.Resampling.BICUBIC, box=(4, 0, 20, 16))).transpose(2, 0, 1)
    assert np.array_equal(made.source, expected) and (made.pixels[..., 4:] == expected[..., 4:]).all()
    assert made.mask[:, :4].all() and not made.mask[:, 4:].any()


def test_guidance_reaches_the_net(tmp_path):
    model = ddpm.load(tiny.run(tmp_path / "zoo", train__label_drop=0.1).folder, "cpu")
    pictures = [model.inpaint(SOURCE, MASK, 1, guide=Guide(cfg_scale=scale), **SOME) for scale in (1.0, 1.0, 4.0)]
    assert np.array_equal(pictures[0].pixels, pictures[1].pixels)
    assert not close(pictures[0].pixels, pictures[2].pixels) and pictures[2].record["cfg_scale"] == 4.0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"label": None}, "--class: zoo draws by class; give that of the picture, or another"),
        ({"label": "dog"}, "--class dog: no such class"),
        ({"resample": 0}, "--resample 0: is at least 1, which only replaces"),
        ({"jump": 0}, "--jump 0: is at least 1"),
        ({"jump": 6}, "--jump 6: a walk of 6 steps has no two levels as far apart above 0; take a smaller one"),
        ({"n": 0}, "-n 0: draw at least one picture"),
        ({"batch": 0}, "--batch 0"),
        ({"sampler": "ddpm", "eta": 0.5}, "--eta 0.5: belongs to the sampler ddim"),
        ({"mask": np.zeros((8, 8), bool)}, "the mask: leaves nothing to paint"),
        ({"mask": np.ones((8, 9), bool)}, "the mask: bool [8, 9]; the model takes [8, 8]"),
        ({"mask": None}, "--mask: the picture has no transparency that could be one"),
    ],
)
def test_what_cannot_be(model, options, message):
    options = {"mask": MASK, "n": 1, **SOME, **options}
    with pytest.raises(UserError) as error:
        model.inpaint(SOURCE, **options)
    assert message in str(error.value)


def test_an_upsampler_does_not_inpaint(tmp_path):
    run = tiny.run(tmp_path / "up", Facts("zoo", 10), data__low_size=(4, 4), train__task="upsampler")
    model = ddpm.load(run.folder, "cpu")
    for ask in (lambda: model.inpaint(SOURCE, MASK), lambda: model.interpolate(SOURCE, SOURCE), model.progressive):
        with pytest.raises(
            UserError, match=r"up: enlarges small pictures; ddpm \w+ takes a model that draws by it"
        ):
            ask()


def test_what_is_written(model, tmp_path):
    made = model.inpaint(SOURCE, MASK, 2, **SOME)
    folder = made.save(tmp_path / "out")
    assert {path.name for path in folder.iterdir()} == {"inpainting.json", "inpainting.png", "pictures"}
    names = {"source.png", "mask.png", "000000-cat.png", "000001-cat.png"}
    assert {path.name for path in (folder / "pictures").iterdir()} == names
    assert np.array_equal(np.asarray(Image.open(folder / "pictures" / "source.png")), SOURCE[0])
    assert np.array_equal(np.asarray(Image.open(folder / "pictures" / "mask.png")), MASK * np.uint8(255))
    with Image.open(folder / "pictures" / "000001-cat.png") as image:
        assert np.array_equal(np.asarray(image), made.pixels[1, 0])
        assert image.text["ddpm:picture"] == "1" and image.text["ddpm:class"] == "cat"
        assert image.text["ddpm:resample"] == "3" and image.text["ddpm:model"] == "zoo"
    record = json.loads((folder / "inpainting.json").read_text())
    assert record["jump"] == 2 and record["resample"] == 3 and record["painted"] == round(25 / 64, 4)
    assert record["steps"] == 6 and record["sampler"] == "ddim" and record["class"] == "cat"
    made.save(folder)  # its own folder is replaced
    (folder / "mine.txt").write_text("")
    with pytest.raises(UserError, match="holds more than ddpm inpaint wrote"):
        made.save(folder)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_figure(channels):
    pixels = RNG.integers(0, 256, (10, channels, 6, 6), dtype=np.uint8)
    if channels == 4:
        pixels[:, 3] = 255
    mask = np.zeros((6, 6), bool)
    mask[:2] = True
    made = Inpainting(pixels[0], mask, pixels[1:], 1, ("cat", "golden retriever"), {})
    figure = made.figure()
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    colours = [np.broadcast_to(one[:3], (3, 6, 6)).transpose(1, 2, 0) for one in pixels]
    assert len(shown) == 2 + 8 + 2 + 1
    assert np.array_equal(shown[0], colours[0])
    assert (
        np.array_equal(shown[1][2:], colours[0][2:]) and len(np.unique(shown[1][:2].reshape(-1, 3), axis=0)) == 1
    )
    for one, expected in zip([*shown[2:10], shown[12]], colours[1:], strict=True):
        assert np.array_equal(one, expected)
    assert all((one == 255).all() for one in shown[10:12])  # the second row begins below the first's results
    words = [text.get_text() for text in figure.texts]
    assert words[1:4] == ["picture", "kept", "1"] and words.count("golden retriever") == 1
    check_layout(figure)
