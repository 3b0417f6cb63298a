"""What `ddpm info` lists and prints beyond a model: the presets, and configs as files."""

import pytest

import tiny
from ddpm.cli import main
from ddpm.commands.configfile import read_config
from ddpm.presets import ORIGINS, PRESETS


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Ho et al. 2020, tables 1 and 3, appendix B.
LISTED = {
    "cifar10": ("32 x 32", "35,746,307", "128", "800,000", "3.17"),
    "celebahq256": ("256 x 256", "113,673,219", "64", "500,000"),
    "lsun-bedroom256": ("256 x 256", "113,673,219", "64", "2,400,000", "6.36"),
    "lsun-bedroom256-large": ("256 x 256", "255,677,955", "64", "1,150,000", "4.90"),
    "lsun-church256": ("256 x 256", "113,673,219", "64", "1,200,000", "7.89"),
    "lsun-cat256": ("256 x 256", "113,673,219", "64", "1,800,000", "19.75"),
    # Nichol & Dhariwal 2021, tables 1, 2 and 4; parameters as counted by diffusers in test_presets.py.
    "iddpm-cifar10-simple": ("32 x 32", "52,542,979", "128", "500,000", "3.05"),
    "iddpm-cifar10-hybrid": ("32 x 32", "52,546,438", "128", "500,000", "3.19"),
    "iddpm-cifar10-vlb": ("32 x 32", "52,546,438", "128", "500,000", "11.47"),
    "iddpm-imagenet64-simple": ("64 x 64", "121,060,483", "128", "1,500,000"),
    "iddpm-imagenet64-hybrid": ("64 x 64", "121,063,942", "128", "1,500,000", "19.20*"),
    "iddpm-imagenet64-vlb": ("64 x 64", "121,063,942", "128", "1,500,000", "40.10*"),
    "iddpm-imagenet64-cond": ("64 x 64", "1,000", "273,049,350", "2048", "250,000", "2.92"),
    "iddpm-imagenet256-upsampler": ("64 -> 256", "1,000", "279,792,390", "256", "500,000"),
    "iddpm-lsun-bedroom256": ("256 x 256", "113,676,678", "128", "1,200,000"),
    # Dhariwal & Nichol 2021, tables 4 and 5, appendix I; parameters as counted by hand in test_presets.py.
    "adm-lsun-bedroom256": ("256 x 256", "552,814,086", "256", "500,000", "1.90"),
    "adm-lsun-cat256": ("256 x 256", "552,814,086", "256", "200,000", "5.57"),
    "adm-lsun-horse256": ("256 x 256", "552,814,086", "256", "250,000", "2.57"),
    "adm-lsun-horse256-nodropout": ("256 x 256", "552,814,086", "256", "250,000", "2.95"),
    "adm-imagenet64": ("64 x 64", "1,000", "295,904,454", "2048", "540,000", "2.07"),
    "adm-imagenet128": ("128 x 128", "1,000", "421,529,606", "256", "4,360,000", "5.91"),
    "adm-imagenet256": ("256 x 256", "1,000", "553,838,086", "256", "1,980,000", "10.94"),
    "adm-imagenet256-uncond": ("256 x 256", "552,814,086", "256", "1,980,000", "26.21"),
    "adm-imagenet512": ("512 x 512", "1,000", "558,997,638", "256", "1,940,000", "23.24"),
    "adm-imagenet256-upsampler": ("64 -> 256", "1,000", "311,795,910", "256", "500,000", "7.49"),
    "adm-imagenet512-upsampler": ("128 -> 512", "1,000", "308,835,270", "256", "1,050,000", "9.96"),
    "adm-imagenet64-classifier": ("64 x 64", "1,000", "65,438,568", "1024", "300,000"),
    "adm-imagenet128-classifier": ("128 x 128", "1,000", "42,568,040", "256", "300,000"),
    "adm-imagenet256-classifier": ("256 x 256", "1,000", "54,096,360", "256", "500,000"),
    "adm-imagenet512-classifier": ("512 x 512", "1,000", "54,448,360", "256", "500,000"),
}


def test_presets_are_listed_with_size_and_origin(capsys):
    assert main(["info", "presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines[1:-2]}
    assert set(rows) == set(LISTED) == set(PRESETS) == set(ORIGINS)
    for name, cells in LISTED.items():
        found = " ".join(rows[name].split())
        papers = {"iddpm": "Nichol & Dhariwal 2021", "adm": "Dhariwal & Nichol 2021"}
        paper = papers.get(name.partition("-")[0], "Ho et al. 2020")
        assert found == " ".join([name, *cells, f"{paper}, {ORIGINS[name].where}"])
    # columns stand under their headings, figures below each other with or without a star
    starts = {line.index(ORIGINS[name].paper) for name, line in rows.items()}
    assert starts == {lines[0].index("origin")}
    figures = [(rows[name], cells[-1]) for name, cells in LISTED.items() if "." in cells[-1]]
    ends = {line.index(fid) + len(fid.rstrip("*")) for line, fid in figures}
    assert ends == {lines[0].index("FID") + 2}
    assert lines[-2].startswith("FID: the paper's, without guidance, of 50,000 samples, * of 10,000;")
    assert lines[-1].endswith("Train one with: ddpm train DATA --preset NAME")


def test_a_preset_with_classes_is_counted_with_them(capsys):
    assert main(["info", "iddpm-imagenet64-cond"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1] == "273,049,350 parameters with 1,000 classes"
    assert main(["info", "iddpm-imagenet64-vlb"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "121,063,942 parameters"


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_s_own_words_agree(name):
    """The docstring that `ddpm info NAME` prints has the same FID."""
    fid, words = ORIGINS[name].fid, PRESETS[name].__doc__
    assert (f"FID {fid:.2f}" in words) if fid else "FID" not in words


def test_a_path_of_that_name_is_meant_first(workplace, capsys):
    tiny.run(workplace / "presets")
    tiny.run(workplace / "cifar10")
    for name in ("presets", "cifar10"):
        assert main(["info", name]) == 0
        assert "data zoo" in capsys.readouterr().out


@pytest.mark.parametrize("there", ["whole", "no checkpoint", "weights alone"])
def test_a_run_s_config_as_a_file(workplace, capsys, there):
    run = tiny.run(workplace / "zoo", train__seed=41)
    given = "zoo"
    if there == "weights alone":
        given = "zoo/checkpoints/000000007/ema.safetensors"
    elif there == "no checkpoint":
        for path in (run.folder / "checkpoints/000000007").iterdir():
            path.unlink()
        (run.folder / "checkpoints/000000007").rmdir()
    assert main(["info", given, "--yaml"]) == 0
    (workplace / "c.yaml").write_text(capsys.readouterr().out)
    values = read_config(workplace / "c.yaml")
    made = tiny.config(data__path=()).with_(**{name.replace(".", "__"): value for name, value in values.items()})
    assert made == tiny.config(data__path=(), train__seed=41)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["preset"], "did you mean presets?; ddpm info presets lists the papers' settings"),
        (["cifra10"], "did you mean cifar10?"),
        (["nothing-like-it", "--yaml"], "ddpm info presets lists the papers' settings"),
        (["presets", "--yaml"], "name one of them: cifar10, "),
    ],
)
def test_mistakes(capsys, arguments, message):
    assert main(["info", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("ddpm: ") and err.count("\n") == 1 and message in err


@pytest.mark.parametrize("kind, unit", [("vlb", " bits/dim"), ("hybrid", "")])
def test_the_loss_has_the_unit_of_what_it_is(workplace, capsys, kind, unit):
    run = tiny.run(workplace / "zoo", loss__kind=kind, denoiser__variance="learned_range")
    run.log({"step": 6, "loss": 4.25, "vlb": 4.25, "pictures_per_second": 30.0})
    assert main(["info", "zoo"]) == 0
    assert f"loss 4.2500{unit}, 30 pictures a second at step 6" in capsys.readouterr().out
