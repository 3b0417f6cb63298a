"""Programs of torch.export: what they compute is torch's; files that would run code are refused first."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ddpm.errors import UserError
from ddpm.evaluate.exported import read_program

CPU = torch.device("cpu")


class Net(nn.Module):
    """Much of what a feature net is made of: a buffer, a constant, batch normalisation, pooling, resizing."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2))
        self.head = nn.Linear(4, 6)
        self.register_buffer("middle", torch.tensor([3.0]))
        self.scale = torch.tensor(0.5)

    def forward(self, pixels):
        x = nn.functional.interpolate(
            (pixels.float() - self.middle) * self.scale, scale_factor=2.0, mode="nearest"
        )
        x = self.body(x)
        pooled = x.reshape(x.shape[0], 4, -1).mean(-1)
        with torch.no_grad():
            logits = torch.einsum("bf,kf->bk", pooled, self.head.weight)
        return {"features": pooled, "spatial": x[:, :2].flatten(1), "logits": logits}


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def exported(net, tmp_path_factory):
    example = (torch.zeros(2, 1, 8, 8, dtype=torch.uint8),)
    path = tmp_path_factory.mktemp("exported") / "net.pt2"
    torch.export.save(torch.export.export(net, example, dynamic_shapes=({0: torch.export.Dim("batch")},)), path)
    return path


def rewritten(path: Path, change, out: Path) -> Path:
    """The archive with its files changed: change(name without the root, content) → content, or None."""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(out, "w") as to:
        for name in archive.namelist():
            root, _, inner = name.partition("/")
            content = change(inner, archive.read(name))
            if content is not None:
                to.writestr(f"{root}/{inner}", content)
    return out


def program_with(path: Path, change, out: Path) -> Path:
    """The archive with its program changed by change(values)."""

    def edit(inner, content):
        if inner != "models/model.json":
            return content
        values = json.loads(content)
        change(values)
        return json.dumps(values).encode()

    return rewritten(path, edit, out)


class Hostile:
    """A pickle that makes a file where it is read."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_a_program_computes_what_the_net_does(net, exported):
    program, digest = read_program(exported, CPU)
    for count in (1, 5):
        pixels = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8)
        expected, made = net(pixels), program(pixels)
        assert list(made) == list(expected)
        for key in expected:
            torch.testing.assert_close(made[key], expected[key])
    assert len(digest) == 64


@pytest.mark.parametrize("results", ["one", "tuple"])
def test_programs_of_one_result_and_of_a_tuple_with_none(results, tmp_path):
    class Small(nn.Module):
        def forward(self, x):
            features = x.float().flatten(1)
            return features if results == "one" else (features, None, features[:, :2])

    path = tmp_path / "small.pt2"
    example = (torch.zeros(2, 1, 2, 2, dtype=torch.uint8),)
    torch.export.save(
        torch.export.export(Small(), example, dynamic_shapes=({0: torch.export.Dim("batch", max=64)},)), path
    )
    pixels = torch.randint(0, 256, (3, 1, 2, 2), dtype=torch.uint8)
    made = read_program(path, CPU)[0](pixels)
    flat = pixels.float().flatten(1)
    if results == "one":
        assert torch.equal(made, flat)
    else:
        assert torch.equal(made[0], flat)
        assert made[1] is None
        assert torch.equal(made[2], flat[:, :2])


def test_a_program_of_one_batch_alone_says_so_when_it_is_run(net, tmp_path):
    from ddpm.evaluate.features import open_features

    path = tmp_path / "fixed.pt2"
    torch.export.save(torch.export.export(net, (torch.zeros(2, 1, 8, 8, dtype=torch.uint8),)), path)
    with pytest.raises(UserError, match=r"does not take uint8 pictures of 1x8x8, 5 at once: .*, for any B"):
        open_features(str(path))(np.zeros((5, 1, 8, 8), np.uint8))


# What is none


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n", "no program of torch.export"),
        (pickle.dumps([1, 2], protocol=4), "a pickle, which would run code on loading"),
        (b"PK\x03\x04half", "is cut short or damaged"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    ],
)
def test_files_that_are_no_program(content, words, tmp_path):
    path = tmp_path / "net.pt2"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"net.pt2: {words}"):
        read_program(path, CPU)


def test_files_of_torch_that_are_no_program(net, exported, tmp_path):
    with pytest.raises(UserError, match="is a folder; name a file"):
        read_program(tmp_path, CPU)
    path = tmp_path / "net.pt2"
    path.write_bytes(exported.read_bytes()[:-400])
    with pytest.raises(UserError, match="is cut short or damaged"):
        read_program(path, CPU)
    torch.save(net.state_dict(), path)
    with pytest.raises(UserError, match=r"a file of torch\.save, which holds weights but no net; save it with"):
        read_program(path, CPU)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/readme.json", "{}")
    with pytest.raises(UserError, match=r"holds no programs of torch\.export"):
        read_program(path, CPU)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/constants.pkl", b"")
        archive.writestr("a/data.pkl", b"")
    with pytest.raises(UserError, match="a TorchScript program, which holds code"):
        read_program(path, CPU)
    rewritten(exported, lambda inner, content: content[:-9] if inner == "models/model.json" else content, path)
    with pytest.raises(UserError, match=r"models/model\.json: damaged, not JSON"):
        read_program(path, CPU)
    rewritten(exported, lambda inner, content: None if inner == "data/weights/weight_0" else content, path)
    with pytest.raises(UserError, match=r"damaged, or of a torch that this one .* cannot read"):
        read_program(path, CPU)


# What would run code


def test_pickles_that_would_run_code_are_refused(exported, tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "hostile.pt2"
    stream = io.BytesIO()
    torch.save(Hostile(mark), stream)
    hostile = stream.getvalue()
    config = "data/weights/model_weights_config.json"

    def as_pickle(inner, content):
        if inner == config:
            values = json.loads(content)
            next(iter(values["config"].values()))["use_pickle"] = True
            return json.dumps(values).encode()
        return hostile if inner == "data/weights/weight_0" else content

    def as_object(prefix):
        def change(inner, content):
            if inner != "data/constants/model_constants_config.json":
                return content
            entry = {"path_name": f"{prefix}_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
            return json.dumps({"config": {"evil": entry}}).encode()

        return change

    changes = [
        (
            lambda inner, content: hostile if inner == "data/sample_inputs/model.pt" else content,
            "sample_inputs/model.pt",
        ),
        (as_pickle, "data/weights/weight_0 in it is a pickle of more than tensors"),
        (as_object("opaque_obj"), "holds data/constants/opaque_obj_0, an object that is no tensor"),
        (as_object("custom_obj"), "holds data/constants/custom_obj_0, an object that is no tensor"),
    ]
    for change, words in changes:
        rewritten(exported, change, path)
        with pytest.raises(UserError, match=f"hostile.pt2: not read, since .*{words}"):
            read_program(path, CPU)
    assert not mark.exists()
    torch.load(io.BytesIO(hostile), weights_only=False)  # as torch.export.load falls back to
    assert mark.exists()


def test_compiled_code_is_refused(exported, tmp_path):
    path = tmp_path / "compiled.pt2"
    path.write_bytes(exported.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("net/data/aotinductor/model/code.so", b"\x7fELF")
    with pytest.raises(
        UserError, match=r"not read, since it holds net/data/aotinductor/model/code\.so, which may be code"
    ):
        read_program(path, CPU)


def first_symbol(values):
    return values["graph_module"]["graph"]["tensor_values"]["pixels"]["sizes"][0]["as_expr"]


CODE = "__import__('pathlib').Path({!r}).touch()"


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("2*3", False),
        ("Mul(Integer(2), Symbol('s77', positive=True, integer=True))", True),
        ("Max(Integer(1), Float('0.5', precision=53))", True),
        ("s0", True),
        (CODE, False),
        ("Symbol('s0').__class__", False),
        ("sympify('1')", False),
        ("Symbol(chr(115))", False),
        ("(lambda: 1)()", False),
        ("Symbol('__import__(1)')", False),
        ("[1]", False),
        ("eval", False),
        ("1 +", False),
    ],
)
def test_sizes_are_nothing_but_arithmetic(text, good):
    from ddpm.evaluate.exported import _arithmetic

    assert _arithmetic(text) == good


def test_expressions_that_would_run_code_are_refused(exported, tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "hostile.pt2"

    def change(values):
        first_symbol(values)["expr_str"] = CODE.format(str(mark))

    program_with(exported, change, path)
    with pytest.raises(UserError, match=r"hostile\.pt2: not read: its expr_str .__import__"):
        read_program(path, CPU)
    assert not mark.exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.hub.load",
        "torch.ops.load_library",
        "torch.ops.aten.__class__.__init__",
        "torch.ops.aten.add.__call__",
        "_operator.call",
        "_operator.methodcaller",
        "math.__loader__.load_module",
        "#extension.op",
        "builtins.eval",
    ],
)
def test_operators_that_are_none_are_refused(target, exported, tmp_path):
    def change(values):
        values["graph_module"]["graph"]["nodes"][0]["target"] = target

    with pytest.raises(UserError, match="not read: its target"):
        read_program(program_with(exported, change, tmp_path / "hostile.pt2"), CPU)


def test_names_that_are_code_are_refused_and_guards_left_out(exported, tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "hostile.pt2"

    def name(values):
        values["graph_module"]["graph"]["inputs"][0]["as_tensor"]["name"] = "x);" + CODE.format(str(mark)) + "#"

    def key(values):
        values["graph_module"]["graph"]["tensor_values"]["x(); y"] = {}

    def tree(values):
        spec = values["graph_module"]["module_call_graph"][0]["signature"]
        spec["out_spec"] = spec["out_spec"].replace("context", "__enum__")

    def value(values):
        node = values["graph_module"]["graph"]["nodes"][0]
        node["inputs"][0]["arg"] = {"as_operator": "torch.os.system"}

    for change, words in (
        (name, "its name .x"),
        (key, r"'x\(\); y' is no name"),
        (tree, "its out_spec"),
        (value, "its as_operator 'torch.os.system'"),
    ):
        with pytest.raises(UserError, match=f"not read: {words}"):
            read_program(program_with(exported, change, path), CPU)

    def guards(values):
        values["guards_code"] = [CODE.format(str(mark))]

    program, _ = read_program(program_with(exported, guards, path), CPU)
    program(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
    assert not mark.exists()
