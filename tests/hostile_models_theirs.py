"""Other projects' files: OpenAI's, diffusers' folders, TensorFlow's."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import test_convert_bundle as bundles
import test_convert_ho as his
from ddpm.convert import diffusers_folder, openai
from hostile_models_case import DEEP, GREAT, SENTINEL, THEIRS, Case, their_weights
from hostile_models_pickles import Payload, Storage, Tensor, archive, program


def openai_file(
    path: Path, flags: Any = None, change: Callable[[dict[str, Any]], Any] = lambda state: None
) -> Path:
    """A file of OpenAI's, changed, with its flags beside it, whatever they are."""
    state: dict[str, Any] = openai.write(their_weights(), THEIRS)
    change(state)
    torch.save(state, path)
    text = flags if isinstance(flags, str) else json.dumps({**openai.flags(THEIRS), **(flags or {})})
    path.with_name(f"{path.name}.json").write_text(text)
    return path


def openai_files(folder: Path) -> Iterator[Case]:
    """Weights of wrong shapes, and flags beside them."""
    shapes: list[tuple[str, Any, str]] = [
        ("input_blocks.0.0.weight", torch.zeros(()), "not a whole net of OpenAI's"),
        ("input_blocks.0.0.weight", torch.zeros(3), "not a whole net of OpenAI's"),
        ("input_blocks.0.0.weight", torch.zeros(0, 0, 0, 0), "not a whole net of OpenAI's"),
        ("time_embed.0.weight", torch.zeros(0, 3), "not a whole net of OpenAI's"),
        ("time_embed.0.weight", torch.zeros(128, 1), ""),
        ("out.2.weight", torch.zeros(10**6, 1), "no model of pictures does"),
        ("label_emb.weight", torch.zeros(1), "not a whole net of OpenAI's"),
        ("label_emb.weight", torch.zeros(10**6, 1), "label_emb.weight is"),
        ("input_blocks.999999999999.0.op.weight", torch.zeros(1), ""),
        ("input_blocks.1.0.out_layers.3.weight", torch.zeros(10**6, 1), ""),
        ("input_blocks.x.0.op.weight", torch.zeros(1, 1), ""),
        ("middle_block.0.emb_layers.1.weight", torch.zeros(1), ""),
        ("out.2.bias", 3, "out.2.bias is no weight"),
        ("out.2.bias", torch.zeros(6, dtype=torch.int32), "weights are floats"),
        ("out.2.bias", torch.zeros(6, dtype=torch.complex64), "weights are floats"),
        ("out.2.bias", torch.full((6,), float("nan")), "holds NaN"),
        ("out.2.bias", torch.zeros(6).to_sparse(), ""),
    ]
    for i, (key, value, says) in enumerate(shapes):
        path = openai_file(folder / f"{i}.pt", change=lambda state, k=key, v=value: state.update({k: v}))
        yield Case(f"{key} {getattr(value, 'shape', value)}", path, says)
    flags: list[tuple[Any, str]] = [
        ({"num_heads": 0}, "--net.heads 0: is at least 1"),
        ({"num_heads": 10**9}, ""),
        ({"num_heads": "4"}, "num_heads: holds '4'; takes int"),
        ({"num_head_channels": 10**9}, ""),
        ({"diffusion_steps": 0}, "diffusion_steps: holds 0; is at least 1"),
        ({"diffusion_steps": GREAT}, "chain.steps 1000000000000 is 1 to"),
        ({"diffusion_steps": -5}, "diffusion_steps: holds -5; is at least 1"),
        ({"image_size": 10**9}, "data.size"),
        ({"image_size": 0}, "--data.size"),
        ({"dropout": float("nan")}, "dropout: holds nan"),
        ({"dropout": -1.0}, "--net.dropout -1.0"),
        ({"noise_schedule": "exec"}, "takes linear or cosine"),
        ({"ddpm": {"step": -1, "data": {"classes": ["a", "b", "c"]}}}, "its ddpm is of another model"),
        ({"ddpm": {"step": "x", "data": {"classes": ["a", "b", "c"]}}}, "its ddpm is of another model"),
        ({"ddpm": {"data": {"classes": 3}}}, "takes str"),
        ("[" * DEEP, "nested too deeply"),
        ("[]", "it is a table of OpenAI's flags"),
        ("", "damaged, not JSON"),
        ("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "damaged, not JSON"),
    ]
    for i, (beside, says) in enumerate(flags):
        yield Case(f"flags {str(beside)[:30]}", openai_file(folder / f"flags {i}.pt", beside), says)
    path = openai_file(folder / "piped.pt")
    path.with_name("piped.pt.json").unlink()
    os.mkfifo(path.with_name("piped.pt.json"))
    yield Case("a pipe for flags", path, "give what its training's flags said")


def diffusers(folder: Path) -> Iterator[Case]:
    """Folders whose JSON is of wrong types, missing, huge or deep."""

    def made(name: str) -> Path:
        first = folder / "whole"
        if not first.exists():
            first.mkdir()
            diffusers_folder.write(first, their_weights(), THEIRS)
        shutil.copytree(first, folder / name)
        return folder / name

    net, noise = "unet/config.json", "scheduler/scheduler_config.json"
    wrong: list[tuple[str, str, Any, str]] = [
        (net, "block_out_channels", [10**9, 10**9], "net.channels 1000000000 is even and 4 to"),
        (net, "block_out_channels", [], "is a list of a width for each level"),
        (net, "block_out_channels", "32", "is a list of a width for each level"),
        (net, "block_out_channels", [32] * 10**5, ""),
        (net, "block_out_channels", [0, 0], "is a list of a width"),
        (net, "layers_per_block", 10**9, "net.blocks 1000000000 is 1 to 100"),
        (net, "layers_per_block", -1, "is a positive whole number"),
        (net, "norm_num_groups", 0, "is a positive whole number"),
        (net, "attention_head_dim", 10**9, "must divide the widths"),
        (net, "sample_size", 10**6, "data.size (1000000, 1000000) has sides"),
        (net, "sample_size", -1, "is a number of pixels"),
        (net, "in_channels", 10**9, "pictures have 1, 3 or 4 channels"),
        (net, "in_channels", True, ""),
        (net, "in_channels", [3], "pictures have 1, 3 or 4 channels"),
        (net, "num_class_embeds", 10**9, "is at most 1,000,000"),
        (net, "down_block_types", [["x"], ["y"]], "our U-Net has no"),
        (net, "down_block_types", ["\x1b[2J", "a\nb"], "our U-Net has no"),
        (net, "down_block_types", "DownBlock2D", "is a list of 2"),
        (net, "dropout", float("nan"), "is a number"),
        (net, "dropout", 10**400, "is a number"),
        (net, "norm_eps", "1e-5", "is a number"),
        (net, "freq_shift", 10**400, "is a number"),
        (net, "act_fn", ["silu"], "SiLU everywhere"),
        (net, "act_fn", "x" * 10**6, "SiLU everywhere"),
        (net, "time_embedding_dim", 10**9, "ours is 4 times"),
        (net, "_class_name", "os.system", "only a UNet2DModel"),
        (net, "_class_name", None, "only a UNet2DModel"),
        (noise, "num_train_timesteps", GREAT, "is at most 1,000,000"),
        (noise, "num_train_timesteps", -1, "is a positive whole number"),
        (noise, "num_train_timesteps", 1.5, "is a positive whole number"),
        (noise, "trained_betas", "0.1", "are not 50 numbers"),
        (noise, "trained_betas", [0.1] * 10**5, "are not 50 numbers"),
        (noise, "trained_betas", [[0.1]] * 50, "are not 50 numbers"),
        (noise, "trained_betas", [10**400] * 50, "are not 50 numbers"),
        (noise, "trained_betas", [float("nan")] * 50, ""),
        (noise, "trained_betas", [2.0] * 50, "lies between 0 and 1"),
        (noise, "trained_betas", {"a": 1}, "are not 50 numbers"),
        (noise, "beta_schedule", ["linear"], ""),
        (noise, "prediction_type", {"eps": 1}, "takes epsilon"),
        (noise, "clip_sample_range", 10**400, "is a number"),
        (noise, "variance_type", 3, ""),
        (noise, "_class_name", ["DDPMScheduler"], "not the noise of a DDPM"),
    ]
    for i, (file, key, value, says) in enumerate(wrong):
        place = made(f"{i}")
        values = json.loads((place / file).read_text())
        (place / file).write_text(json.dumps({**values, key: value}))
        yield Case(f"{key} {str(value)[:20]}", place, says)
    for i, (file, text, says) in enumerate(
        [
            (net, "", "damaged, not JSON"),
            (net, "[" * DEEP, "nested too deeply"),
            (net, '{"_class_name":' * 900 + "1" + "}" * 900, ""),
            (net, "[]", "it is a table of settings"),
            (net, " " * (17 << 20), "no such file has more than"),
            (net, '{"a": ' + "9" * 5000 + "}", "damaged"),
            (noise, "{", "damaged, not JSON"),
            (noise, "[1]", "it is a table of settings"),
            ("model_index.json", "[" * DEEP, "nested too deeply"),
            ("model_index.json", "[]", "has no unet"),
            ("model_index.json", '{"unet": 3}', "has no unet"),
        ]
    ):
        place = made(f"text {i}")
        (place / file).write_text(text)
        yield Case(f"{file} {text[:20]}", place, says)
    weights = "unet/diffusion_pytorch_model.safetensors"
    place = made("no config")
    (place / net).unlink()
    yield Case("no config.json", place, "missing")
    place = made("no weights")
    (place / weights).unlink()
    yield Case("no weights", place, "has no weights")
    place = made("piped weights")
    (place / weights).unlink()
    os.mkfifo(place / weights)
    yield Case("a pipe for weights", place, "has no weights")
    place = made("piped config")
    (place / net).unlink()
    os.mkfifo(place / net)
    yield Case("a pipe for config.json", place, "missing")
    place = made("circle")
    (place / net).unlink()
    (place / net).symlink_to(place / net)
    yield Case("a link to itself for config.json", place, "missing")
    place = made("itself")
    shutil.rmtree(place / "unet")
    (place / "unet").symlink_to(place)
    yield Case("a folder in itself", place, "missing")
    place = made("cut")
    (place / weights).write_bytes((place / weights).read_bytes()[:-100])
    yield Case("weights cut short", place, "damaged or not a safetensors")
    place = made("payload")
    (place / weights).unlink()
    (place / "unet" / "diffusion_pytorch_model.bin").write_bytes(
        pickle.dumps({"conv_in.weight": Payload(os.mkdir, str(folder / SENTINEL))})
    )
    yield Case("a .bin that would run code", place, "would run code on loading")
    place = made("lying")
    (place / weights).unlink()
    lie = {"conv_in.weight": Tensor(Storage("0", 4), (GREAT,), (0,))}
    archive(place / "unet" / "diffusion_pytorch_model.bin", program(lie), {"0": bytes(16)})
    yield Case("a .bin of 4 TB", place, "numbers, which it is not")


def tensorflow(folder: Path) -> Iterator[Case]:
    """Ho et al.'s variables, in TensorFlow's files and in numpy's."""
    variables = his.variables()

    def bundle(name: str, change: Callable[[bytes], bytes]) -> Path:
        prefix = folder / name / "model.ckpt-7"
        prefix.parent.mkdir()
        bundles.write(prefix, variables)
        index = prefix.with_name(prefix.name + ".index")
        index.write_bytes(change(index.read_bytes()))
        return prefix

    none = "damaged, or no checkpoint of TensorFlow"
    yield Case("an index cut short", bundle("cut", lambda data: data[:-9]), none)
    yield Case("an index of nothing", bundle("nothing", lambda data: b""), none)
    yield Case("half an index", bundle("half", lambda data: data[len(data) // 2 :]), "")
    endless = b"\xff" * (1 << 20) + struct.pack("<Q", 0xDB4775248B80FB57)
    yield Case("a number without end", bundle("endless", lambda data: endless), none)
    name = "model/temb/dense0/W"

    def lying(where: str, shape: tuple[int, ...], offset: int, size: int, says: str) -> Case:
        prefix = folder / where / "model.ckpt-7"
        prefix.parent.mkdir()
        dims = b"".join(bundles.field(2, bundles.field(1, side)) for side in shape)
        said = bundles.field(1, 1) + bundles.field(2, dims) + bundles.field(4, offset) + bundles.field(5, size)
        rows = [(b"", bundles.field(1, 1)), (name.encode(), said)]
        prefix.with_name("model.ckpt-7.index").write_bytes(bundles.table(rows))
        prefix.with_name("model.ckpt-7.data-00000-of-00001").write_bytes(bytes(64))
        return Case(where, prefix, says)

    yield lying("a variable of 4 TB", (GREAT,), 0, 4 * GREAT, none)
    yield lying("a variable of another size", (GREAT,), 0, 64, none)
    yield lying("a variable beyond the end", (4,), 1 << 50, 16, none)
    yield lying("a variable of no dimensions", (), 0, 4, "")
    yield lying("sizes that run over", (1 << 62, 1 << 62), 0, 16, none)
    again = bundle("again", lambda data: repeated())
    yield Case("one block ten thousand times", again, "over 100,000 variables")
    gone = bundle("gone", lambda data: data)
    next(gone.parent.glob("*.data-*")).unlink()
    yield Case(
        "no data", folder / "gone" / "model.ckpt-7", "missing; a checkpoint of TensorFlow is all of its files"
    )
    short = bundle("short", lambda data: data)
    data = next(short.parent.glob("*.data-*"))
    data.write_bytes(data.read_bytes()[:100])
    yield Case("data cut short", short, none)

    for label, changed, says in (
        ("none of his shapes", {name: np.zeros(3, "f4")}, ""),
        ("an empty one", {name: np.zeros((0, 0), "f4")}, ""),
        ("three dimensions", {"model/conv_in/W": np.zeros((3, 3, 8), "f4")}, "not the shapes of his U-Net"),
        ("q of another size", {"model/mid/attn_1/q/W": np.zeros((4, 4), "f4")}, "not the shapes of his U-Net"),
        ("a number of 5,000 digits", {f"model/down_{'9' * 5000}/block_0/conv1/W": np.zeros((1, 1), "f4")}, ""),
        ("level 10^9", {"model/down_1000000000/block_0/conv1/W": np.zeros((3, 3, 8, 8), "f4")}, ""),
    ):
        np.savez(folder / f"{label}.npz", **{**variables, **changed})
        yield Case(label, folder / f"{label}.npz", says)
    np.savez_compressed(folder / "bomb.npz", **{name: np.zeros((1 << 12, 1 << 12), "f4")})
    yield Case("a .npz that grows", folder / "bomb.npz", "unpacks to far more")
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (GREAT,)})
    with zipfile.ZipFile(folder / "lying.npz", "w") as file:
        file.writestr(f"{name}.npy", head.getvalue() + bytes(16))
    yield Case("an array of 4 TB", folder / "lying.npz", "damaged, or not a .npz")
    with zipfile.ZipFile(folder / "no array.npz", "w") as file:
        file.writestr(f"{name}.npy", b"hello")
    yield Case("no array", folder / "no array.npz", "damaged, or not a .npz")


def repeated() -> bytes:
    """An index that names one block of 100 variables ten thousand times."""
    inner = bundles.block([(b"k%04d" % i, b"") for i in range(100)])
    handle = bundles.varint(0) + bundles.varint(len(inner))
    index = bundles.block([(b"%05d" % i, handle) for i in range(10_000)])
    data = inner + bytes(5)
    place = bundles.varint(len(data)) + bundles.varint(len(index))
    data += index + bytes(5)
    return data + (place + place).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
