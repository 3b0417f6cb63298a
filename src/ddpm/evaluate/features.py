"""Feature nets: from pictures as uint8 pixels to the numbers that a set of pictures is compared by.

    inception         the Inception of FID, with its own resizing: torch-fidelity (`pip install ddpm[eval]`)
    inception:FILE    the same, with its weights in a file
    random            a fixed net of random weights, for pictures of any shape; needs nothing
    FILE.pt2          a program of torch.export; in Python also any callable

A Fréchet distance says nothing without its net's name: numbers of two nets are not comparable. `random` ranks
pictures by their textures and layout (Naeem et al. 2020, "Reliable fidelity and diversity metrics for generative
models", §5.2, found random embeddings fit for data far from ImageNet), but it is nobody's published number.

A program or callable takes uint8 [B, C, H, W] and gives features [B, F], or (features, spatial, logits), or a dict
with these keys; spatial and logits may be missing or None. To make a file of a net:

    batch = torch.export.Dim("batch")
    example = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    torch.export.save(torch.export.export(net.eval(), (example,), dynamic_shapes=({0: batch},)), "net.pt2")
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from ddpm import noise
from ddpm.convert.pickles import read_pickle
from ddpm.errors import UserError
from ddpm.evaluate.exported import read_program
from ddpm.memory import AtOnce, out_of_memory

DEFAULT = "inception"
_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
_AT_ONCE = 64
_KEYS = ("features", "spatial", "logits")

Net = Callable[[Tensor], Tensor | tuple[Any, ...] | dict[str, Any]]


class Features(NamedTuple):
    """Of B pictures, on the CPU: pooled for FID, KID, precision and recall; spatial for sFID; logits for IS."""

    pooled: Float32[Tensor, "B F"]
    spatial: Float32[Tensor, "B S"] | None = None
    logits: Float32[Tensor, "B K"] | None = None


@final
@dataclass(frozen=True, eq=False)
class FeatureNet:
    """name: as a record says it. key: 64 hex digits that differ whenever net, weights or resizing do.

    batch: how many pictures it is given at once, if memory allows.
    """

    name: str
    key: str
    net: Net
    device: torch.device
    batch: AtOnce = field(default_factory=lambda: AtOnce(_AT_ONCE))

    def __call__(self, pixels: UInt8[np.ndarray, "B C H W"]) -> Features:
        """Features of pictures, a moderate number at once. UserError where the net does not take or give such."""
        if not len(pixels):
            raise ValueError("no pictures")
        made = self.batch.each(len(pixels), lambda rows: self._piece(torch.from_numpy(pixels[rows].copy())))
        pieces = [piece for _, piece in made]
        pooled, spatial, logits = zip(*pieces, strict=True)
        return Features(torch.cat(pooled), _joined(spatial), _joined(logits))

    def _piece(self, pixels: UInt8[Tensor, "B C H W"]) -> Features:
        shape = "x".join(map(str, pixels.shape[1:]))
        try:
            # Reduced precision would give the same key other numbers on a GPU.
            with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                made = self.net(pixels.to(self.device))
        except UserError:
            raise
        except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
            if out_of_memory(error):
                raise
            raise UserError(
                f"{self.name}: does not take uint8 pictures of {shape}, {len(pixels)} at once: {_first(error)}; a "
                "feature net takes [B, C, H, W] of these channels and this size, for any B"
            ) from error
        return self._checked(made, len(pixels))

    def _checked(self, made: Any, count: int) -> Features:
        if isinstance(made, dict):
            if "features" not in made or set(made) - set(_KEYS):
                raise UserError(f"{self.name}: gives a dict of {', '.join(map(str, made))}; {_wanted()}")
            given = tuple(made.get(key) for key in _KEYS)
        else:
            given = tuple(made) if isinstance(made, (tuple, list)) else (made,)
        if not 1 <= len(given) <= 3:
            raise UserError(f"{self.name}: gives {len(given)} results; {_wanted()}")
        values: list[Tensor | None] = []
        for key, value in zip(_KEYS, (*given, None, None), strict=False):
            if value is None and key != "features":
                values.append(None)
                continue
            if not isinstance(value, Tensor) or value.dim() < 2 or len(value) != count:
                what = (
                    f"of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
                )
                raise UserError(f"{self.name}: its {key} for {count} pictures are {what}; {_wanted()}")
            if key != "spatial" and value.dim() != 2:
                raise UserError(f"{self.name}: its {key} are of shape {list(value.shape)}; {_wanted()}")
            value = value.detach().float().flatten(1).cpu()
            if not value.isfinite().all():
                raise UserError(f"{self.name}: its {key} are not finite (NaN or inf); mend the net or its weights")
            values.append(value)
        assert values[0] is not None
        return Features(values[0], values[1], values[2])


def open_features(
    spec: str | Net, device: str | torch.device | None = None, *, key: str | None = None
) -> FeatureNet:
    """The feature net of a name, a file or a callable.

    key: for a callable, a word that changes whenever what it computes does; of a Module the hash of its weights
    serves, as long as its code stays the same. device: where the net runs, the CPU without. UserError if there is
    no such net, or it cannot be had here.
    """
    where = torch.device(device or "cpu")
    if not isinstance(spec, str):
        return _of_callable(spec, where, key)
    if spec == "random":
        return FeatureNet("random", _hash("random", RandomNet.VERSION), RandomNet(where), where)
    kind, colon, file = spec.partition(":")
    if kind == "inception":
        return _inception(file if colon else None, where)
    path = Path(spec)
    if not path.exists() and not path.is_symlink():
        raise UserError(
            f"--features {spec}: neither a file nor a net known by name; take inception, inception:FILE, random, "
            "or a program saved with torch.export.save (.pt2)"
        )
    program, digest = read_program(path, where)
    return FeatureNet(path.name, _hash("program", digest), program, where)


def _of_callable(net: Net, device: torch.device, key: str | None) -> FeatureNet:
    name = getattr(net, "__name__", type(net).__name__)
    if isinstance(net, nn.Module):
        net = net.to(device).eval()
        key = key or _hash(type(net).__qualname__, _state_hash(net))
    elif key is None:
        raise UserError(
            f"{name}: a callable needs a key, a word that changes whenever what it computes does: "
            "open_features(net, key='mine-1')"
        )
    return FeatureNet(name, _hash("callable", key), net, device)


# Inception ----------------------------------------------------------------------------------------------------


def _inception(file: str | None, device: torch.device) -> FeatureNet:
    """torch-fidelity's port of the 2015 TensorFlow graph; resized as in that graph."""
    otherwise = "or --features random, or an exported net (FILE.pt2)"
    if file is not None and not Path(file).is_file():
        raise UserError(
            f"--features inception:{file}: no such file; give Inception's weights as torch-fidelity has them"
        )
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import (  # type: ignore[import-not-found,unused-ignore]
            FeatureExtractorInceptionV3,
        )
    except ImportError as error:
        missing = "is not installed" if error.name == "torch_fidelity" else f"cannot be imported ({_first(error)})"
        raise UserError(
            f"--features inception: torch-fidelity {missing}; pip install 'ddpm[eval]', {otherwise}"
        ) from None
    except RuntimeError as error:  # torchvision beside a torch that it was not built for
        raise UserError(
            f"--features inception: torch-fidelity cannot be imported ({_first(error)}); install the torchvision "
            f"that belongs to this torch, {otherwise}"
        ) from None
    if file is not None:
        read_pickle(Path(file))  # says no to what torch-fidelity, which loads with weights_only=False, would run
    try:
        net = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=file
        )
    except Exception as error:  # a damaged or foreign file, or no way to fetch it
        if file is None:
            raise UserError(
                f"--features inception: its weights could not be fetched ({_first(error)}); fetch "
                f"torch-fidelity's {_WEIGHTS} elsewhere and give --features inception:FILE, {otherwise}"
            ) from None
        raise UserError(
            f"--features inception:{file}: not Inception's weights as torch-fidelity has them ({_first(error)}); "
            f"fetch {_WEIGHTS} from its releases, {otherwise}"
        ) from None
    net = net.to(device).eval()
    scheme = "torch-fidelity: tf1 bilinear 299, pool, mixed_6/conv[:7], logits without bias"
    return FeatureNet("inception", _hash(scheme, _state_hash(net)), Inception(net), device)


@final
class Inception:
    """Pictures as Inception wants them, and the three things that are asked of it.

    Spatial features are those of sFID (Nash et al. 2021) as guided-diffusion takes them: the first 7 of the 192
    channels, 17 x 17, of the graph's node mixed_6/conv, which is the first branch of Mixed_6d after its ReLU.
    Logits are without the last layer's bias, as the Inception Score has them.
    """

    def __init__(self, net: Any) -> None:
        """net: torch-fidelity's, asked for "2048" and "logits_unbiased"."""
        self.net = net
        self._map: Tensor | None = None
        net.Mixed_6d.branch1x1.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, given: Any, made: Tensor) -> None:
        self._map = made[:, :7]

    def __call__(self, pixels: UInt8[Tensor, "B C H W"]) -> tuple[Tensor, Tensor, Tensor]:
        pooled, logits = self.net(in_colour(pixels))
        spatial, self._map = self._map, None
        assert spatial is not None  # the hook fires in each pass
        return pooled, spatial, logits


def in_colour(pixels: UInt8[Tensor, "B C H W"]) -> UInt8[Tensor, "B 3 H W"]:
    """Grey three times over; transparent pictures on white, rounded; UserError for other channels than 1, 3, 4."""
    channels = pixels.shape[1]
    if channels == 1:
        return pixels.expand(-1, 3, -1, -1)
    if channels == 4:
        colour, alpha = pixels[:, :3].float(), pixels[:, 3:].float() / 255.0
        return (colour * alpha + 255.0 * (1.0 - alpha)).round().to(torch.uint8)
    if channels != 3:
        raise UserError(f"inception: takes pictures of 1, 3 or 4 channels, not {channels}; take --features random")
    return pixels


# Random weights -----------------------------------------------------------------------------------------------


@final
class RandomNet:
    """Four stages of two 3 x 3 convolutions of random weights, each on half the picture's side.

    Weights are uniform of variance 2/fan-in (He et al. 2015), addressed numbers: the same on every machine.
    """

    VERSION = "1"
    WIDTHS = (32, 64, 128, 256)
    SIDE = 32
    """Maps larger than this, after the first stage, are averaged down to it."""
    SCALE = 10.0
    """Makes the features of small pictures vary by about 1."""
    SEED = 20_201_127

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._weights: dict[tuple[int, int, int], Tensor] = {}

    def _weight(self, number: int, given: int, made: int) -> Float[Tensor, "made given 3 3"]:
        """The weights of convolution `number`, kept once made."""
        found = self._weights.get((number, given, made))
        if found is None:
            count = given * 9
            u = noise.uniform(self.SEED, noise.Purpose.WALK, torch.arange(made), number, count)
            found = ((u - 0.5) * math.sqrt(12.0 * 2.0 / count)).float().view(made, given, 3, 3).to(self.device)
            self._weights[number, given, made] = found
        return found

    def __call__(self, pixels: UInt8[Tensor, "B C H W"]) -> tuple[Tensor, Tensor]:
        """Features [B, 256] and spatial ones [B, 7 * 7 * 7]."""
        x = pixels.float() / 127.5 - 1.0
        number, spatial = 0, x
        for stage, width in enumerate(self.WIDTHS):
            for _ in range(2):
                x = F.leaky_relu(F.conv2d(x, self._weight(number, x.shape[1], width), padding=1), 0.2)
                number += 1
            if stage == 1:
                spatial = F.adaptive_avg_pool2d(x[:, :7], 7)
            if stage < len(self.WIDTHS) - 1:
                x = F.avg_pool2d(x, 2, ceil_mode=True)
            if stage == 0 and max(x.shape[2:]) > self.SIDE:
                x = F.adaptive_avg_pool2d(x, (min(x.shape[2], self.SIDE), min(x.shape[3], self.SIDE)))
        return x.mean((2, 3)) * self.SCALE, spatial.flatten(1) * self.SCALE


# What they share ----------------------------------------------------------------------------------------------


def _joined(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    kept = [part for part in parts if part is not None]
    return torch.cat(kept) if kept else None


def _wanted() -> str:
    return "a feature net gives features [B, F], or (features, spatial, logits), or a dict with these keys"


def _first(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _hash(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


def _state_hash(net: nn.Module) -> str:
    """Of names, types, shapes and values of all weights and buffers."""
    made = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        made.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        made.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return made.hexdigest()
