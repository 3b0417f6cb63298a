"""`ddpm plot`: what is drawn, against the papers' formulas in numpy; and what it says to a mistake."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from ddpm.cli import main
from ddpm.commands.plot import Forward, Schedule, forward, log_of, schedule, share_of
from ddpm.grids import Grid, Grids, write_grids
from ddpm.loading import load
from ddpm.noise import Purpose, normals
from ddpm.store import Description, Run

LINEAR = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))])


def cosine(T):
    """ᾱ_0 … ᾱ_T of Nichol & Dhariwal 2021, eq. 17, with their cap of β at 0.999."""
    f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.concatenate([[1.0], np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))])


def sigmoid(T):
    """Jabri et al. 2022, algorithm 1, with the same cap."""
    s = 1 / (1 + np.exp(-np.linspace(-3, 3, T + 1)))
    share = (s[-1] - s) / (s[-1] - s[0])
    with np.errstate(invalid="ignore"):
        return np.concatenate([[1.0], np.cumprod(1 - np.minimum(1 - share[1:] / share[:-1], 0.999))])


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(capsys):
    """main(plot …) → status, output, errors."""

    def call(*arguments):
        capsys.readouterr()
        try:
            status = main(["plot", *map(str, arguments)])
        except SystemExit as left:
            status = left.code
        return status, *capsys.readouterr()

    return call


def save(path, high=12, wide=12, mode="RGB"):
    """A picture of random pixels; returns them as [H, W, …]."""
    shape = {"L": (high, wide), "RGB": (high, wide, 3), "RGBA": (high, wide, 4)}[mode]
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def shown(figure):
    """The pictures of a figure, uint8 [H, W, 3] each, left to right and top to bottom."""
    return [axes.images[0].get_array() for axes in figure.axes]


def words(figure):
    return [text.get_text() for text in figure.texts]


def named(figure):
    """The names at the lines' ends."""
    return [note.get_text() for note in figure.axes[-1].texts]


# -- forward ---------------------------------------------------------------------------------------------------


def test_forward_draws_equation_4_with_the_same_noise_for_all():
    x0 = save("photo.png") / 127.5 - 1
    figure = forward(Forward("photo.png", levels=4, seed=3))
    eps = normals(3, Purpose.TRAIN_NOISE, torch.tensor([0]), torch.tensor([0]), (3, 12, 12))[0, 0]
    eps = eps.numpy().transpose(1, 2, 0)
    pictures = shown(figure)
    assert len(pictures) == 3 * 5
    for row, share in enumerate((LINEAR, cosine(1000), sigmoid(1000))):
        for column, t in enumerate((0, 250, 500, 750, 1000)):
            xt = np.sqrt(share[t]) * x0 + np.sqrt(1 - share[t]) * eps
            expected = np.clip(127.5 * (xt + 1), 0, 255)
            # half a grey level for rounding, and a little for float32
            assert np.abs(pictures[5 * row + column] - expected).max() < 0.51
    assert np.array_equal(pictures[0], np.asarray(Image.open("photo.png")))


def test_forward_says_what_is_seen():
    save("photo.png")
    said = words(forward(Forward("photo.png", schedules=("linear", "cosine"), levels=2)))
    assert said[:4] == ["t/T", "0", "0.5", "1"]
    for name, share in (("linear", LINEAR), ("cosine", cosine(1000))):
        at = said.index(name)
        half, last = share[500], share[1000]
        assert said[at : at + 9] == [
            name,
            r"$\bar\alpha$",
            "1",
            f"{half:.3f}",
            f"{last:.1e}".replace("e-0", "e−"),
            "log SNR",
            "∞",
            f"{np.log(half / (1 - half)):.2f}".replace("-", "−"),
            f"{np.log(last):.2f}".replace("-", "−"),  # 1 − ᾱ is 1 there
        ]


def test_numbers_are_short():
    assert [share_of(x) for x in (1.0, 0.9996, 0.5, 0.00123, 4.04e-5, 3e-12)] == [
        "1",
        "1.000",
        "0.500",
        "0.001",
        "4.0e−5",
        "3.0e−12",
    ]
    assert [log_of(x) for x in (np.inf, 2.163, -0.0004, 0.0, -10.118)] == ["∞", "2.16", "0.00", "0.00", "−10.12"]


@pytest.mark.parametrize("steps, levels, T", [(40, 3, 40), (7, 7, 7), (25, 10, 25)])
def test_forward_levels_are_evenly_spaced(steps, levels, T):
    save("photo.png", mode="L")
    said = words(forward(Forward("photo.png", schedules=("cosine",), steps=steps, levels=levels)))
    assert said[1 : levels + 2] == [f"{k / levels:.3g}" for k in range(levels + 1)]
    share = cosine(T)[[round(k * T / levels) for k in range(levels + 1)]]
    at = said.index(r"$\bar\alpha$") + 1
    assert said[at : at + levels + 1] == [share_of(x) for x in share]


def test_forward_takes_what_pictures_are():
    grey = save("grey.png", mode="L")
    clean = shown(forward(Forward("grey.png", schedules=("linear",), levels=1)))[0]
    assert np.array_equal(clean, np.repeat(grey[..., None], 3, axis=2))
    noisy = shown(forward(Forward("grey.png", schedules=("linear",), levels=1)))[1]
    assert np.array_equal(noisy[..., 0], noisy[..., 1])  # noise of a grey picture is grey
    clear = save("clear.png", mode="RGBA").astype(float)
    on_white = clear[..., :3] * clear[..., 3:] / 255 + 255 - clear[..., 3:]
    assert np.abs(shown(forward(Forward("clear.png", levels=1)))[0] - on_white).max() <= 2


@pytest.mark.parametrize(
    "high, wide, size, becomes",
    [
        (12, 20, None, (12, 20)),
        (128, 96, None, (128, 96)),
        (512, 256, None, (128, 64)),
        (10, 900, None, (1, 128)),
        (40, 60, "16", (16, 16)),
        (8, 8, "20x30", (20, 30)),
        (200, 300, "200x300", (200, 300)),
    ],
)
def test_forward_keeps_a_picture_s_shape_unless_told(high, wide, size, becomes):
    save("photo.png", high, wide)
    figure = forward(Forward("photo.png", schedules=("cosine",), levels=1, size=size))
    assert {picture.shape for picture in shown(figure)} == {(*becomes, 3)}


def test_forward_takes_a_picture_of_a_set(call):
    with np.load(tiny.__file__.replace("tests/tiny.py", "src/ddpm/assets/fashion.npz")) as arrays:
        seventh = arrays["images"][7]
    figure = forward(Forward("fashion", number=7, schedules=("linear",), levels=1))
    assert np.array_equal(shown(figure)[0][..., 0], seventh)
    tiny.photos(tiny.Path("photos"), count=4)
    figure = forward(
        Forward("photos", number=3, schedules=("linear",), levels=1)
    )  # cats/00 cats/02 dogs/01 dogs/03
    assert np.array_equal(shown(figure)[0], np.asarray(Image.open("photos/dogs/03.png")))
    status, out, _ = call("forward", "photos", "--number", 3, "--levels", 1)
    assert (status, out) == (0, "open plots/forward-photos-3.png\n")


def test_forward_writes_where_it_says(call, workplace):
    save("my photo.jpg")
    status, out, err = call("forward", "my photo.jpg", "--levels", 2, "--schedules", "cosine", "cifar10")
    assert (status, out, err) == (0, "open plots/forward-my photo.png\n", "")
    with Image.open("plots/forward-my photo.png") as page:
        assert page.format == "PNG" and page.width > 3 * 150 and page.height > 2 * 150
    assert call("forward", "my photo.jpg", "--out", "a/b.svg")[:2] == (0, "open a/b.svg\n")
    assert (workplace / "a/b.svg").read_bytes().startswith(b"<?xml")


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["nope.png"], "nope.png: no such file or folder"),
        (["photo.png", "--number", 2], "--number 2: photo.png is a single picture; leave it out"),
        (["photos", "--number", 30], "--number 30: photos has the pictures 0 to 29"),
        (["photos", "--number", -1], "--number -1: photos has the pictures 0 to 29"),
        (["broken.png"], "broken.png: cannot be decoded ("),
        (["photo.png", "--levels", 0], "--levels 0: is at least 1"),
        (["photo.png", "--size", "0x3"], "--size 0x3: takes a height and a width in pixels"),
        (["photo.png", "--schedules", "cosin"], "did you mean cosine?"),
        (["photo.png", "--schedules", "cifar"], "did you mean cifar10?"),
        (["photo.png", "--steps", 0], "--steps 0: is at least 1"),
        (["photo.png", "--steps", 20], "--steps 20: too few for the schedule linear; take more, or name another"),
        (["photo.png", "--out", "x.gif"], "--out x.gif: a figure's name ends in .png, .svg or .pdf"),
    ],
)
def test_mistakes_of_forward(call, workplace, arguments, said):
    save("photo.png")
    tiny.photos(workplace / "photos")
    (workplace / "broken.png").write_bytes((workplace / "photo.png").read_bytes()[:200])
    status, out, err = call("forward", *arguments)
    assert status == 2 and not out and err.startswith("ddpm: ") and err.count("\n") == 1
    assert said in err
    assert not (workplace / "plots").exists()


# -- schedule --------------------------------------------------------------------------------------------------


def test_schedule_draws_alpha_bar_and_log_snr():
    figure = schedule(Schedule())
    left, right = figure.axes
    assert named(figure) == ["linear", "cosine", "sigmoid"]
    for k, share in enumerate((LINEAR, cosine(1000), sigmoid(1000))):
        assert left.lines[k].get_xdata() == pytest.approx(np.arange(1001) / 1000)
        assert left.lines[k].get_ydata() == pytest.approx(share, abs=1e-12)
        assert right.lines[k].get_xdata() == pytest.approx(np.arange(1, 1001) / 1000)
        assert right.lines[k].get_ydata() == pytest.approx(np.log(share[1:]) - np.log1p(-share[1:]), abs=1e-6)


@pytest.mark.parametrize(
    "spec, kept, title",
    [
        ("50", [round(1 + k * 999 / 49) for k in range(50)], "50 of 1000 levels"),
        ("ddim25", list(range(1, 1001, 40)), "ddim25: 25 of 1000 levels"),
        ("1", [1000], "1 of 1000 levels"),
        ("1,2", [1, 501, 1000], "1,2: 3 of 1000 levels"),
    ],
)
def test_respace_marks_the_levels_kept(spec, kept, title):
    figure = schedule(Schedule(("cosine",), respace=(spec,)))
    left, right = figure.axes
    share = cosine(1000)[kept]
    for axes, y in ((left, share), (right, np.log(share) - np.log1p(-share))):
        dots = axes.lines[1]
        assert dots.get_linestyle() == "None"
        assert dots.get_xdata() == pytest.approx(np.array(kept) / 1000)
        assert dots.get_ydata() == pytest.approx(y, abs=1e-6)
    assert title in words(figure)


def test_a_row_for_each_spec():
    figure = schedule(Schedule(("linear", "cosine"), respace=("10,15,20", "ddim25")))
    assert len(figure.axes) == 4 and words(figure) == ["10,15,20: 45 of 1000 levels", "ddim25: 25 of 1000 levels"]
    assert [len(axes.lines) for axes in figure.axes] == [4] * 4


def test_models_runs_and_presets_have_their_own_chain(workplace):
    run = tiny.run(workplace / "zoo")
    figure = schedule(Schedule(("zoo", "cosine", "cifar10", "linear")))
    assert named(figure) == ["zoo (T = 40)", "cosine (T = 1000)", "cifar10, linear (T = 1000)"]
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx(cosine(40), abs=1e-12)
    assert figure.axes[0].lines[0].get_xdata() == pytest.approx(np.arange(41) / 40)
    file = next(run.folder.glob("checkpoints/*/ema.safetensors"))
    assert named(schedule(Schedule(("zoo", str(file))))) == [f"zoo, {file}"]
    assert named(schedule(Schedule(("cosine", "fashion", "cosine")))) == ["cosine, fashion, cosine"]
    figure = schedule(Schedule(("zoo", "linear"), respace=("10",)))
    assert words(figure)[0] == "10 of 40 or 10 of 1000 levels"


def fitted(*levels, T=40):
    return Grids(T, tuple(Grid(one, 4.0, 5.0) for one in levels), "large", 10, 0)


def test_respace_marks_the_levels_of_fitted_grids_each_model_its_own(workplace):
    for name, levels in (("one", (3, 17, 40)), ("two", (1, 2, 40))):
        write_grids(tiny.run(workplace / name).folder / "grids.json", fitted(levels))
    figure = schedule(Schedule(("one", "two"), respace=("fitted:3", "two/grids.json:3")))
    assert words(figure) == ["fitted: 3 of 40 levels", "fitted (grids.json): 3 of 40 levels"]
    # two lines though the chains are the same, since their grids are not
    dots = [
        [line.get_xdata() * 40 for line in axes.lines if line.get_linestyle() == "None"] for axes in figure.axes
    ]
    assert named(figure) == ["one", "two"]
    for row, expected in zip(dots, [[(3, 17, 40), (1, 2, 40)]] * 2 + [[(1, 2, 40)] * 2] * 2, strict=True):
        assert [tuple(x.round(9)) for x in row] == expected


@pytest.mark.parametrize(
    "names, spec, said",
    [
        (["zoo"], "fitted:4", "--respace fitted:4: no grid of so many steps was fitted; there are those of 3"),
        (["zoo"], "fitted", "--respace fitted: takes a number of steps after a colon, as fitted:20"),
        (["zoo"], "zoo/grids.json", "--respace zoo/grids.json: takes a number of steps after a colon, as zoo/"),
        (["zoo"], "fitted:", "--respace fitted:: takes a number of steps after the colon, as fitted:20"),
        (["bare"], "fitted:3", "--respace fitted:3: bare has no fitted grids yet; `ddpm evaluate"),
        (["zoo", "linear"], "fitted:3", "--respace fitted:3: linear is no run; name a grids.json"),
        (
            ["zoo"],
            "none.json:3",
            "--respace none.json:3: takes uniform, trailing, quadratic, log-snr, edm, as in edm:7, fitted",
        ),
        (["linear"], "zoo/grids.json:3", "zoo/grids.json: its grids are of 40 levels, and linear has 1000"),
    ],
)
def test_fitted_grids_there_are_not(call, workplace, names, spec, said):
    write_grids(tiny.run(workplace / "zoo").folder / "grids.json", fitted((3, 17, 40)))
    tiny.run(workplace / "bare")
    status, out, err = call("schedule", *names, "--respace", spec)
    assert status == 2 and not out and err.startswith(f"ddpm: {said}") and err.count("\n") == 1


def test_it_is_noted_when_grids_were_fitted_to_something_else(call, workplace):
    run = tiny.run(workplace / "zoo").folder
    own = load("zoo", "cpu").checkpoint
    write_grids(run / "grids.json", replace(fitted((3, 17, 40)), checkpoint=own))
    write_grids(workplace / "other.json", replace(fitted((3, 17, 40)), model="ark", checkpoint="0" * 16))
    write_grids(workplace / "small.json", replace(fitted((3, 17, 40)), variance="small", checkpoint=own))
    assert "note" not in call("schedule", "zoo", "--respace", "fitted:3")[1]
    status, out, _ = call("schedule", "zoo", "--respace", "other.json:3", "small.json:3", "ddim20")
    notes = [line for line in out.splitlines() if line.startswith("note: ")]
    assert status == 0 and len(notes) == 2
    assert notes[0].startswith("note: other.json: its grids were fitted to another checkpoint (ark, 000")
    assert notes[1] == "note: small.json: its grids were fitted with variance small, the model has large"


def test_files_of_one_name_are_told_apart(workplace):
    for name in ("one", "two"):
        write_grids(tiny.run(workplace / name).folder / "grids.json", fitted((3, 17, 40)))
    figure = schedule(Schedule(("one",), respace=("one/grids.json:3", "two/grids.json:3")))
    assert words(figure) == [f"fitted ({name}/grids.json): 3 of 40 levels" for name in ("one", "two")]


def test_a_run_without_a_checkpoint_has_a_chain_and_an_existing_path_comes_first(workplace):
    made = tiny.config(chain__schedule="betas", chain__steps=3, chain__betas=(0.1, 0.2, 0.3))
    Run.create(workplace / "linear", Description(made, tiny.ANIMALS))
    figure = schedule(Schedule(("linear",)))
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([1, 0.9, 0.72, 0.504])


def test_schedule_writes_where_it_says(call, workplace):
    assert call("schedule", "cosine", "--respace", "50", "10,15,20")[:2] == (0, "open plots/schedule.png\n")
    with Image.open("plots/schedule.png") as page:
        assert page.format == "PNG"
    assert call("schedule", "--steps", 100, "--out", "s.pdf")[:2] == (0, "open s.pdf\n")
    assert (workplace / "s.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["sigmoidal"], "did you mean sigmoid?"),
        (["xyz"], "schedules: linear, cosine, sigmoid; presets: cifar10, "),
        (["empty"], "empty: holds no run"),
        (["--respace", "many"], '--respace many: takes a number, several as in "10,15,20", or "ddim25"'),
        (["--respace", "2000"], "--respace 2000: takes 1 to 1000 of the 1000 levels"),
        (["--respace", "50", "ddim300"], "--respace ddim300: no whole stride"),
        (["--steps", 3], "--steps 3: too few for the schedule linear"),
        (["--out", "empty"], "--out empty: a figure's name ends in"),
    ],
)
def test_mistakes_of_schedule(call, workplace, arguments, said):
    (workplace / "empty").mkdir()
    status, out, err = call("schedule", *arguments)
    assert status == 2 and not out and err.startswith("ddpm: ") and err.count("\n") == 1
    assert said in err


# -- help ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["forward", "schedule"])
def test_each_kind_has_help(call, kind):
    status, out, _ = call(kind, "--help")
    assert status == 0 and f"usage: ddpm plot {kind}" in out and "--out FILE" in out
    assert kind in call("--help")[1]


@pytest.mark.parametrize("arguments", [[], ["forwards"], ["forward"]])
def test_what_is_missing_is_said(call, arguments):
    status, out, err = call(*arguments)
    assert status == 2 and ("forward" in err or "PICTURE" in err) and "Traceback" not in out + err
