"""The README's commands and Python, run one after another as in one sitting, with less of everything.

What it has to keep to: commands stand in ```sh blocks on lines that start with `ddpm `, Python in ```python
blocks; each can be run as it stands, after those above it. DATA that is not embedded is a folder such as
`./photos`, which is made here. A line `ddpm train` gets a tiny net and 3 steps in place of its budget.
"""

import re
import shlex
import signal
from pathlib import Path

import pytest

import tiny
from ddpm.cli import main

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = ("sh", "bash", "shell", "console", "")
# options of `ddpm train` that cost time, and have a value
COSTLY = {"--budget", "--steps", "--train.steps", "--batch", "--train.batch", "--size", "--checkpoint-every"}
FEW = {"-n": 2, "--number": 2, "--steps": 4}


def pieces(text: str) -> list[tuple[str, str]]:
    """("command" or "python", text) in the README's order."""
    found = []
    for kind, body in BLOCK.findall(text):
        if kind == "python":
            found.append(("python", body))
        elif kind in SHELL:
            lines = body.replace("\\\n", " ").splitlines()
            found += [
                ("command", line) for line in (line.removeprefix("$ ") for line in lines) if line[:5] == "ddpm "
            ]
    return found


PIECES = pieces(README.read_text(encoding="utf-8"))


def without(arguments: list[str], options: set[str]) -> list[str]:
    """The arguments but for these options and their values."""
    kept, skip = [], False
    for argument in arguments:
        if skip or argument.partition("=")[0] in options:
            skip = not skip and "=" not in argument
            continue
        kept.append(argument)
    return kept


def fewer(arguments: list[str]) -> list[str]:
    """Numbers after -n and --steps made small; specs such as 10,15 stay."""
    made = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        made.append(str(min(int(argument), FEW[before])) if before in FEW and argument.isdigit() else argument)
    return made if "--steps" in made else [*made, "--steps", "4"]


def reduced(line: str) -> list[str]:
    """The command's arguments, with less of everything; makes its DATA."""
    name, *arguments = shlex.split(line, comments=True)[1:]
    if name == "sample":
        return [name, *fewer(arguments)]
    for data in arguments:
        if data.startswith("./") and not Path(data).exists():
            tiny.photos(Path(data), size=(20, 24))
    if name == "evaluate" and "--features" in arguments:  # neighbours and covariances take a few
        return [
            name,
            *("8" if before == "-n" else one for before, one in zip(["", *arguments], arguments, strict=False)),
        ]
    if name == "evaluate":
        return [name, *arguments, "-n", "2"]
    if name == "tune":
        less = without(arguments, {"-n", "--budget"})
        return [name, *less, "-n", "8", "--evaluations", "2,10", "--samplers", "ddim,dpm++", "--grids", "uniform"]
    if name == "invert":
        return [name, *fewer(arguments)]
    if name in ("progressive", "interpolate", "img2img"):
        return [name, *fewer(arguments)]
    if name == "inpaint":
        return [name, *fewer(arguments), "--jump", "2"]
    if name != "train":
        return [name, *arguments]
    if "--resume" in arguments or "--help" in arguments:
        return [name, *arguments]
    size = arguments[arguments.index("--size") + 1] if "--size" in arguments else None
    less = without(arguments, {*COSTLY, "--net.channels"})
    # the shape of the size stays, as 64x96 becomes 16x24
    less += ["--size", "x".join(str(int(n) // 4) for n in size.split("x")) if size else "16"]
    less += ["--steps", "3", "--batch", "4", "--device", "cpu"]
    less += ["--train.evaluate-samples", "8"] if "--train.evaluate-every" in arguments else []
    if "--init-from" in arguments:
        return [name, *less]  # the model brings its own net
    less += tiny.NET
    return [name, *less, *(["--net.attention", "1"] if "--preset" in arguments else [])]


def smaller(code: str) -> str:
    """Python with few pictures and steps."""
    code = re.sub(r"\.sample\(\s*\d+", ".sample(2", code)
    return re.sub(r"\b(n|steps)=\d+", r"\1=3", code)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_there_are_commands_and_python():
    kinds = [kind for kind, _ in PIECES]
    assert kinds.count("command") >= 3 and kinds.count("python") >= 1
    named = {shlex.split(line, comments=True)[1] for kind, line in PIECES if kind == "command"}
    assert {"train", "sample"} <= named


def test_the_readme_runs_as_it_stands(workplace, capsys):
    space: dict[str, object] = {}
    failed = []
    for kind, text in PIECES:
        try:
            if kind == "python":
                exec(compile(smaller(text), "README.md", "exec"), space)
                continue
            status = main(reduced(text))
        except SystemExit as left:
            status = left.code
        except Exception as error:
            status = repr(error)
            if kind == "python":
                text = text.strip().splitlines()[0] + " …"
        if status:
            failed.append(f"{text}\n    {status} {capsys.readouterr().err.strip()[-300:]}")
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize(
    "command",
    [
        *("train", "sample", "info", "check", "report", "evaluate", "progressive", "interpolate"),
        *("inpaint", "img2img", "convert"),
    ],
)
def test_the_readme_s_options_exist(command, capsys):
    """Of commands named anywhere in the text, also outside of blocks."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    known = set(re.findall(r"--?[a-z][\w.-]*", capsys.readouterr().out))
    text = README.read_text(encoding="utf-8")
    for line in re.findall(rf"ddpm {command} ([^`\n#]*)", text):
        for option in re.findall(r"(?<!\S)--?[a-z][\w.-]*", line):
            assert option in known, f"ddpm {command} {line}"
