"""Which number is measured, and a pass that can be stopped: the same bits whenever it goes on."""

import numpy as np
import pytest
import torch

from ddpm.chain import Chain, make_chain
from ddpm.data.pictures import Cached
from ddpm.denoiser import Denoiser
from ddpm.errors import UserError
from ddpm.evaluate.likelihood import estimate, likelihood
from ddpm.evaluate.measuring import choose, kept_batch, measure, usual_batch
from ddpm.evaluate.records import Records
from ddpm.evaluate.reference import Reference
from oracle import Mixture, OracleNet, linear_betas

MIXTURE = Mixture.of([0.3, 0.7], [[-0.5] * 4, [0.4] * 4], [0.2, 0.3])
BETAS = linear_betas(40)


class Counted(torch.nn.Module):
    """A net, and how many pictures it was shown."""

    def __init__(self, net):
        super().__init__()
        self.net, self.shown, self.labels = net, 0, []

    def forward(self, x, timestep, label=None):
        self.shown += len(x)
        self.labels.append(label)
        return self.net(x, timestep)


def model(steps=40):
    betas = linear_betas(steps)
    return Denoiser(Counted(OracleNet(MIXTURE, betas)), Chain.from_betas(betas))


def reference(count=20, labels=None):
    pixels = np.clip(np.rint(127.5 * (MIXTURE.sample(count, 0) + 1)), 0, 255).astype(np.uint8)
    return Reference(Cached(pixels.reshape(count, 1, 2, 2), None, (), "dots", "f" * 64), labels)


@pytest.fixture
def records(tmp_path):
    return Records(tmp_path, "dots", {})


# -- which number ----------------------------------------------------------------------------------------------


def test_an_estimate_by_default():
    what = choose(model(1000))
    assert (what.kind, what.draws, what.evaluations) == ("estimate", 32, 33)
    assert what.words() == (
        "Monte-Carlo estimate of the bound of the 1,000-step chain: the decoder's term and 32 drawn ones a picture"
    )
    assert choose(model(1000), draws=1).evaluations == 2


@pytest.mark.parametrize("steps", ["all", "1000", " all "])
def test_every_term(steps):
    what = choose(model(1000), steps)
    assert (what.kind, what.evaluations) == ("every term", 1000)
    assert what.words() == "bound of the 1,000-step chain, every term"
    assert what.levels.tolist() == list(range(1, 1001))


def test_a_bound_of_K_steps_is_called_its_own():
    what = choose(model(1000), "50")
    assert what.kind == "respaced" and what.evaluations == what.model.chain.T == len(what.levels) == 69
    assert set(range(1, 21)) < set(what.levels.tolist()) and what.levels[-1] == 1000
    assert what.words() == (
        "bound of a chain of 69 of the 1,000 levels: 50 evenly spaced, and all of 1 … 20; its own bound, no "
        "estimate of the 1,000-step chain's"
    )
    assert what.about()["chain"] == what.levels.tolist()


def test_any_other_spec_is_that_chain_alone():
    what = choose(model(1000), "10,15,20")
    assert what.kind == "respaced" and what.evaluations == 45
    assert what.words().startswith("bound of a chain of 45 of the 1,000 levels: 10,15,20; its own bound")


@pytest.mark.parametrize("T, kind", [(33, "every term"), (34, "estimate"), (2, "every term"), (1, "every term")])
def test_a_short_chain_is_measured_whole(T, kind):
    made = Denoiser(torch.nn.Identity(), make_chain("cosine", T))
    assert choose(made).kind == kind


@pytest.mark.parametrize(
    "steps, draws, message",
    [
        ("50", 8, "--draws 8: so many are drawn from the whole chain; leave out --steps 50"),
        (None, 0, "--draws 0: draws 1 to 998 of a chain of 1000 steps; --steps all measures every term"),
        (None, 999, "--draws 999: draws 1 to 998 of a chain of 1000 steps; --steps all measures every term"),
        ("0", None, "--steps 0: takes 1 to 1000 of the 1000 levels there are to choose from"),
        ("1001", None, "--steps 1001: takes 1 to 1000 of the 1000 levels"),
        ("some", None, '--steps some: takes a number, several as in "10,15,20", or "ddim25"'),
        ("ddim300", None, "--steps ddim300: no whole stride through 1000 levels gives 300"),
    ],
)
def test_what_does_not_go_together(steps, draws, message):
    with pytest.raises(UserError) as error:
        choose(model(1000), steps, draws)
    assert str(error.value).startswith(message)


def test_a_long_chain_is_no_other():
    what = choose(model(4000), "100")
    assert what.evaluations == len({*what.levels.tolist()} | {*range(1, 41)}) and what.levels[-1] == 4000


def test_larger_pictures_go_in_smaller_batches():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert usual_batch(cpu, (32, 32)) == usual_batch(cpu, (8, 8)) == 64 and usual_batch(gpu, (32, 32)) == 256
    assert usual_batch(cpu, (64, 64)) == 16 and usual_batch(cpu, (512, 512)) == 1


@pytest.mark.parametrize(
    "evaluations, kept", [(1, 64), (33, 64), (499, 64), (500, 32), (1000, 16), (2000, 8), (4000, 8)]
)
def test_the_longer_a_picture_takes_the_fewer_are_kept_together(evaluations, kept):
    assert kept_batch(torch.device("cpu"), (28, 28), evaluations) == kept
    assert kept_batch(torch.device("cuda"), (28, 28), evaluations) == max(8, 4 * 64 // max(1, evaluations // 250))
    assert kept_batch(torch.device("cpu"), (256, 256), evaluations) == 1  # these are few anyway


def test_names_for_files_say_how_many_levels_there_are():
    what = choose(model(1000), "50")
    assert what.slug == "69-levels" and what.about()["chain_steps"] == 69 and what.about()["steps"] == "50"
    assert choose(model(1000), "20", fitted=range(50, 1001, 50)).slug == "20-levels-fitted"
    assert choose(model(1000)).slug == "estimate" and choose(model(1000), "all").slug == "all"
    about = choose(model(1000)).about()
    assert (about["steps"], about["chain_steps"], about["draws"]) == (None, 1000, 32)


# -- the pass --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [None, "all", "10"])
def test_a_pass_is_the_pictures_measured_at_once(records, steps):
    pictures, what = reference(), choose(model(), steps, 6 if steps is None else None)
    numbers = pictures.spread(10)
    made = measure(what, pictures, numbers, records, seed=3, batch=4)
    x0, _ = pictures.batch(numbers)
    if steps is None:
        whole = estimate(what.model, x0, torch.from_numpy(numbers), 6, 3)
    else:
        whole = likelihood(what.model, x0, torch.from_numpy(numbers), 3)
    assert type(made) is type(whole)
    for name, values in whole._asdict().items():
        assert torch.allclose(getattr(made, name).double(), values.double(), rtol=1e-6, atol=1e-12), name


@pytest.mark.parametrize("steps", [None, "all"])
@pytest.mark.parametrize("stop", [1, 7, 23])
def test_a_stopped_pass_goes_on_bit_by_bit(tmp_path, steps, stop):
    pictures, told = reference(), []
    what = choose(model(22), steps, 6 if steps is None else None)
    numbers = pictures.spread(17)
    whole = measure(what, pictures, numbers, Records(tmp_path, "a", {}), batch=5)

    def stopping(done, total):
        told.append((done, total))
        if len(told) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(what, pictures, numbers, Records(tmp_path, "b", {}), batch=5, progress=stopping)
    kept = len(Records(tmp_path, "b", {}).there())
    assert kept == 5 * (stop // (7 if steps is None else 23))  # a batch is told of after each term, and when kept
    before = what.model.net.shown
    resumed = measure(what, pictures, numbers, Records(tmp_path, "b", {}), batch=5)
    assert what.model.net.shown - before == (17 - kept) * what.evaluations
    assert all(torch.equal(a, b) for a, b in zip(resumed, whole, strict=True))


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_batch_is_measured_again(records, tmp_path, damage):
    pictures, what = reference(), choose(model(), "all")
    whole = measure(what, pictures, pictures.spread(20), records, batch=8)
    path = sorted((records.folder / "parts").iterdir())[1]
    data = bytearray(path.read_bytes())
    data[data.index(whole.total[8].numpy().tobytes())] ^= 1  # its numbers are whole
    path.write_bytes(data[:100] if damage == "cut" else data)
    before = what.model.net.shown
    again = measure(what, pictures, pictures.spread(20), Records(tmp_path, "dots", {}), batch=8)
    assert what.model.net.shown - before == 8 * 40
    assert all(torch.equal(a, b) for a, b in zip(again, whole, strict=True))


def test_more_pictures_take_what_is_there(records):
    pictures, what = reference(), choose(model(), "10")
    few = measure(what, pictures, pictures.spread(5), records)
    before = what.model.net.shown
    many = measure(what, pictures, pictures.spread(20), records)
    assert what.model.net.shown - before == 15 * what.evaluations
    assert all(torch.equal(a[::4], b) for a, b in zip(many, few, strict=True))
    fewer = measure(what, pictures, pictures.spread(4), records)
    assert all(torch.equal(a[::5], b) for a, b in zip(many, fewer, strict=True))
    assert what.model.net.shown - before == 15 * what.evaluations


def test_the_net_is_told_the_classes(records):
    labels = np.arange(20) % 3
    pictures, what = reference(labels=labels), choose(model(), "all")
    measure(what, pictures, pictures.spread(4), records, batch=2)
    seen = {tuple(label.tolist()) for label in what.model.net.labels}
    assert seen == {(labels[0], labels[5]), (labels[10], labels[15])}


def test_progress_counts_evaluations(records):
    pictures, what, told = reference(), choose(model(), draws=3), []
    measure(what, pictures, pictures.spread(7), records, batch=4, progress=lambda *a: told.append(a))
    assert told[-1] == (28, 28) and {total for _, total in told} == {28}
    done = [count for count, _ in told]
    assert done == sorted(done) and 16 in done


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_net_that_gives_no_numbers(records, value):
    class Broken(torch.nn.Module):
        def forward(self, x, timestep):
            out = torch.zeros_like(x)
            out[1] = value
            return out

    made = Denoiser(Broken(), Chain.from_betas(BETAS), clip=False)
    pictures = reference()
    with pytest.raises(
        UserError, match=r"dots: picture 5 has a bound of (nan|inf): the net's output is not finite"
    ):
        measure(choose(made, "all"), pictures, pictures.spread(4), records)
    assert not records.there()
