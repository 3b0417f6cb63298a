"""Ho et al.'s variables: the net is evaluated here once more, in NHWC by numpy, from their names alone."""

import math

import numpy as np
import pytest
import torch

from ddpm.build import build_net
from ddpm.convert import ho
from ddpm.errors import UserError
from ddpm.presets import preset

GIVEN = {
    "data.size": (16, 16),
    "chain.schedule": "linear",
    "chain.steps": 1000,
    "denoiser.predicts": "eps",
    "denoiser.variance": "small",
    "net.groups": 4,
}
SHAPES = {"ch": 8, "mult": (1, 2), "blocks": 2, "attention": (1,), "channels": 3, "out": 3}


# -- his variables ---------------------------------------------------------------------------------------------


def variables(ch=8, mult=(1, 2), blocks=2, attention=(1,), channels=3, out=3, scope="model/", seed=0):
    """All variables of such a net with random numbers, by the names that his code gives them."""
    rng, made = np.random.default_rng(seed), {}

    def put(name, *shape, near=0.0):
        made[scope + name] = (near + rng.normal(size=shape) / math.sqrt(math.prod(shape[:-1]) or 1)).astype("f4")

    def conv(name, inputs, outputs):
        put(f"{name}/W", 3, 3, inputs, outputs), put(f"{name}/b", outputs)

    def dense(name, inputs, outputs):
        put(f"{name}/W", inputs, outputs), put(f"{name}/b", outputs)

    def norm(name, width):
        put(f"{name}/gamma", width, near=1.0), put(f"{name}/beta", width)

    def block(name, inputs, outputs):
        norm(f"{name}/norm1", inputs), conv(f"{name}/conv1", inputs, outputs)
        dense(f"{name}/temb_proj", 4 * ch, outputs)
        norm(f"{name}/norm2", outputs), conv(f"{name}/conv2", outputs, outputs)
        if inputs != outputs:
            dense(f"{name}/nin_shortcut", inputs, outputs)

    def attn(name, width):
        norm(f"{name}/norm", width)
        for part in ("q", "k", "v", "proj_out"):
            dense(f"{name}/{part}", width, width)

    dense("temb/dense0", ch, 4 * ch), dense("temb/dense1", 4 * ch, 4 * ch)
    conv("conv_in", channels, ch)
    passed, width = [ch], ch
    for i, m in enumerate(mult):
        for j in range(blocks):
            block(f"down_{i}/block_{j}", width, ch * m)
            width = ch * m
            if i in attention:
                attn(f"down_{i}/attn_{j}", width)
            passed.append(width)
        if i < len(mult) - 1:
            conv(f"down_{i}/downsample/conv", width, width)
            passed.append(width)
    block("mid/block_1", width, width), attn("mid/attn_1", width), block("mid/block_2", width, width)
    for i in reversed(range(len(mult))):
        for j in range(blocks + 1):
            block(f"up_{i}/block_{j}", width + passed.pop(), ch * mult[i])
            width = ch * mult[i]
            if i in attention:
                attn(f"up_{i}/attn_{j}", width)
        if i:
            conv(f"up_{i}/upsample/conv", width, width)
    norm("norm_out", width), conv("conv_out", width, out)
    return made


def tensors(made):
    return {name: torch.from_numpy(value) for name, value in made.items()}


# -- his net ---------------------------------------------------------------------------------------------------


def evaluate(made, x, t, ch, mult, blocks, attention, groups, scope="model/"):
    """The net at x [B, H, W, C] in float64."""
    v = {name.removeprefix(scope): value.astype("f8") for name, value in made.items()}

    def swish(h):
        return h / (1.0 + np.exp(-h))

    def norm(h, name):
        b, y, x, c = h.shape
        parts = h.reshape(b, y, x, groups, c // groups)
        mean = parts.mean((1, 2, 4), keepdims=True)
        variance = ((parts - mean) ** 2).mean((1, 2, 4), keepdims=True)
        h = ((parts - mean) / np.sqrt(variance + 1e-6)).reshape(h.shape)
        return h * v[f"{name}/gamma"] + v[f"{name}/beta"]

    def dense(h, name):
        return h @ v[f"{name}/W"] + v[f"{name}/b"]

    def conv(h, name, stride=1):
        # SAME: what is padded in all, the smaller half of it before
        pads = [(0, 0)]
        for size in h.shape[1:3]:
            all_of_it = max((math.ceil(size / stride) - 1) * stride + 3 - size, 0)
            pads.append((all_of_it // 2, all_of_it - all_of_it // 2))
        padded = np.pad(h, [*pads, (0, 0)])
        rows, columns = h.shape[1] // stride, h.shape[2] // stride
        weight = v[f"{name}/W"]
        out = sum(
            padded[:, dy : dy + rows * stride : stride, dx : dx + columns * stride : stride] @ weight[dy, dx]
            for dy in range(3)
            for dx in range(3)
        )
        return out + v[f"{name}/b"]

    def block(h, name):
        start = h
        h = conv(swish(norm(h, f"{name}/norm1")), f"{name}/conv1")
        h = h + dense(swish(temb), f"{name}/temb_proj")[:, None, None]
        h = conv(swish(norm(h, f"{name}/norm2")), f"{name}/conv2")
        return h + (dense(start, f"{name}/nin_shortcut") if f"{name}/nin_shortcut/W" in v else start)

    def attn(h, name):
        b, y, x, c = h.shape
        n = norm(h, f"{name}/norm").reshape(b, y * x, c)
        q, k, w = (dense(n, f"{name}/{part}") for part in "qkv")
        weights = np.exp(q @ k.transpose(0, 2, 1) / math.sqrt(c))
        weights /= weights.sum(-1, keepdims=True)
        return h + dense(weights @ w, f"{name}/proj_out").reshape(h.shape)

    rates = np.exp(np.arange(ch // 2) * -(math.log(10000) / (ch // 2 - 1)))
    angle = t[:, None] * rates[None]
    temb = dense(np.concatenate([np.sin(angle), np.cos(angle)], 1), "temb/dense0")
    temb = dense(swish(temb), "temb/dense1")
    hs = [conv(x, "conv_in")]
    for i in range(len(mult)):
        for j in range(blocks):
            h = block(hs[-1], f"down_{i}/block_{j}")
            hs.append(attn(h, f"down_{i}/attn_{j}") if i in attention else h)
        if i < len(mult) - 1:
            hs.append(conv(hs[-1], f"down_{i}/downsample/conv", stride=2))
    h = block(attn(block(hs[-1], "mid/block_1"), "mid/attn_1"), "mid/block_2")
    for i in reversed(range(len(mult))):
        for j in range(blocks + 1):
            h = block(np.concatenate([h, hs.pop()], -1), f"up_{i}/block_{j}")
            h = attn(h, f"up_{i}/attn_{j}") if i in attention else h
        if i:
            h = conv(h.repeat(2, 1).repeat(2, 2), f"up_{i}/upsample/conv")
    return conv(swish(norm(h, "norm_out")), "conv_out")


def outputs(found, x, t):
    net = build_net(found.description.config, 0).eval()
    net.load_state_dict(found.weights)
    with torch.no_grad():
        out = net(torch.from_numpy(x.transpose(0, 3, 1, 2)).float(), torch.from_numpy(t).float())
    return out.numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize(
    "shapes",
    [
        SHAPES,
        {**SHAPES, "ch": 16, "mult": (1, 1, 2), "blocks": 1, "attention": (0, 2), "channels": 1, "out": 1},
        {**SHAPES, "mult": (1, 3), "attention": (), "out": 6},
    ],
)
def test_the_net_computes_what_his_does(shapes):
    made = variables(**shapes)
    found = ho.read(
        tensors(made), "his.npz", GIVEN if shapes["out"] != 6 else {**GIVEN, "denoiser.variance": "learned"}
    )
    rng = np.random.default_rng(1)
    x, t = rng.normal(size=(2, 16, 16, shapes["channels"])), np.array([0, 731])
    expected = evaluate(made, x, t, *(shapes[key] for key in ("ch", "mult", "blocks", "attention")), groups=4)
    out = outputs(found, x, t)
    assert np.abs(out - expected).max() <= 1e-5 * np.abs(expected).max()
    assert found.kind == "ho" and found.description.config.net.style == "ho"


def test_what_the_shapes_say():
    found = ho.read(tensors(variables()), "logs/model.ckpt-1500", GIVEN)
    config = found.description.config
    net = config.net
    assert (net.channels, net.multipliers, net.blocks, net.attention) == (8, (1, 2), 2, (1,))
    assert (config.data.channels, config.data.size, config.denoiser.variance) == (3, (16, 16), "small")
    assert found.description.step == 1500
    wide = ho.read(tensors(variables(out=6)), "x.npz", {k: v for k, v in GIVEN.items() if "variance" not in k})
    assert wide.description.config.denoiser.variance == "learned"


@pytest.mark.parametrize("scope", ["", "model/", "some/where/else/"])
def test_averaged_variables_are_taken(scope):
    plain, averaged = variables(scope=scope, seed=1), variables(scope=scope, seed=2)
    both = {**plain, **{f"{name}/ExponentialMovingAverage": value for name, value in averaged.items()}}
    both |= {f"{name}/Adam": value for name, value in variables(scope=scope, seed=3).items()}
    both |= {"global_step": np.float32(7), "beta1_power": np.float32(0.5)}
    for weights, source in (("ema", averaged), ("model", plain)):
        found = ho.read({k: torch.tensor(v) for k, v in both.items()}, "his.npz", GIVEN, weights)
        expected = ho.read(tensors(source), "his.npz", GIVEN, "model").weights
        assert found.weights.keys() == expected.keys() and found.notes == ()
        assert all(torch.equal(value, expected[key]) for key, value in found.weights.items())
    assert "no averaged variables" in ho.read(tensors(plain), "his.npz", GIVEN).notes[0]
    only = {name: value for name, value in both.items() if name.endswith("Average")}
    assert ho.recognises(only) and ho.read(tensors(only), "his.npz", GIVEN).notes == ()


def port(made):
    """The variables as the PyTorch port keeps them: its names, convolutions for his matrices over places."""
    out = {}
    for name, value in made.items():
        parts = name.removeprefix("model/").split("/")
        kind = {"W": "weight", "gamma": "weight", "b": "bias", "beta": "bias"}[parts.pop()]
        if parts[0] != "mid" and parts[0].startswith(("down", "up")):
            parts = [
                parts[0].replace("_", "."),
                *(p.replace("_", ".") if p[:3] in ("blo", "att") else p for p in parts[1:]),
            ]
        path = ".".join(parts).replace("dense0", "dense.0").replace("dense1", "dense.1")
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
        elif value.ndim == 2:
            value = value.T if parts[0] == "temb" or parts[-1] == "temb_proj" else value.T[:, :, None, None]
        out[f"{path}.{kind}"] = torch.from_numpy(value.copy())
    return out


def test_the_port_to_pytorch_is_the_same_net():
    made = variables(mult=(1, 2, 2), blocks=1)
    theirs = port(made)
    assert {"down.1.attn.0.q.weight", "up.2.block.1.nin_shortcut.bias", "mid.block_1.norm1.weight"} <= set(theirs)
    assert ho.recognises(theirs)
    found, expected = ho.read(theirs, "model-790000.ckpt", GIVEN), ho.read(tensors(made), "his.npz", GIVEN)
    assert found.description.step == 790_000 and found.weights.keys() == expected.weights.keys()
    assert all(torch.equal(value, expected.weights[key]) for key, value in found.weights.items())


# -- what the weights do not say -------------------------------------------------------------------------------


def test_what_is_not_given_is_asked_for():
    with pytest.raises(UserError, match=r"do not say data.size, .*--chain.steps 1000.*--preset cifar10") as error:
        ho.read(tensors(variables()), "his.npz", {})
    assert "\n" not in str(error.value)
    given = {key: value for key, value in GIVEN.items() if key != "chain.steps"}
    with pytest.raises(UserError, match=r"do not say chain.steps; "):
        ho.read(tensors(variables()), "his.npz", given)


def test_a_preset_says_it():
    made = tensors(variables(ch=128, mult=(1, 2, 2, 2)))
    config = preset("cifar10")
    for name, given in (("his.npz", {"preset": "cifar10"}), ("zoo/diffusion_cifar10_model/model.ckpt-790000", {})):
        found = ho.read(made, name, given)
        is_now = found.description.config
        assert is_now == config and found.notes[1:] == (() if given else found.notes[1:])
    assert any("those of cifar10, as its name says" in note for note in found.notes)
    changed = ho.read(made, "his.npz", {"preset": "cifar10", "denoiser.variance": "small"})
    assert changed.description.config == config.with_(denoiser__variance="small")
    with pytest.raises(UserError, match=r"--preset lsun-cat256: its net does not fit .*; those of cifar10 do"):
        ho.read(made, "his.npz", {"preset": "lsun-cat256"})
    with pytest.raises(UserError, match="--preset nothing"):
        ho.read(made, "his.npz", {"preset": "nothing"})


def test_another_net_under_a_published_name_is_asked_about():
    with pytest.raises(UserError, match="do not say"):
        ho.read(tensors(variables()), "diffusion_cifar10_model/model.ckpt-790000", {})


@pytest.mark.parametrize(
    "given, message",
    [
        ({"net.channels": 16}, r"--net.channels 16: the weights of his.npz say 8; leave it out"),
        ({"net.multipliers": (1, 2, 4)}, r"--net.multipliers 1 2 4: .* say 1 2;"),
        ({"net.style": "openai"}, r"--net.style openai: .* say ho"),
        ({"net.heads": 4}, r"--net.heads 4: .* say 1"),
    ],
)
def test_what_contradicts_the_weights(given, message):
    with pytest.raises(UserError, match=message):
        ho.read(tensors(variables()), "his.npz", {**GIVEN, **given})


def test_what_is_not_his_net():
    made = tensors(variables())
    for name in ("model/conv_in/W", "model/down_1/block_0/conv1/W", "model/conv_out/W"):
        with pytest.raises(UserError, match="is missing; fetch it again"):
            ho.read({key: value for key, value in made.items() if key != name}, "his.npz", GIVEN)
    with pytest.raises(UserError, match=r"down.0.block.0.conv_shortcut.weight has no place"):
        ho.read({**made, "model/down_0/block_0/conv_shortcut/W": torch.zeros(3, 3, 8, 8)}, "his.npz", GIVEN)
    assert not ho.recognises(["time_embed.0.weight", "mid_block.norm.g", "model/W"])
