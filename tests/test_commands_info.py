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
}


def test_presets_are_listed_with_size_and_origin(capsys):
    assert main(["info", "presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines[1:-1]}
    assert set(rows) == set(LISTED) == set(PRESETS) == set(ORIGINS)
    for name, cells in LISTED.items():
        found = " ".join(rows[name].split())
        assert found == " ".join([name, *cells, f"Ho et al. 2020, {ORIGINS[name].where}"])
    # columns stand under their headings
    assert len({line.index("Ho et al.") for line in rows.values()} | {lines[0].index("origin")}) == 1


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
