"""Everything that can be chosen about a training, as plain frozen records; imports no torch.

A config is complete: what a run was made with, never what is still to be decided. It is saved with every
checkpoint, and each field is an option of the command line by its dotted name, as `--net.channels 64`.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from ddpm.errors import UserError, short

C = TypeVar("C")


@dataclass(frozen=True)
class DataConfig:
    """The pictures."""

    path: tuple[str, ...] = ()
    """Folders, archives, array files, lists, hub ids or embedded names; several are one set."""
    size: tuple[int, int] = (32, 32)
    """Height and width pictures are brought to."""
    channels: int = 3
    """1 for grey, 3 for colour, 4 for colour with transparency."""
    crop: Literal["centre", "random", "pad", "none"] = "centre"
    """Where shapes differ: cut from the centre, cut at random, pad to the shape, or stretch (none)."""
    background: str = "white"
    """Colour behind transparency and padding: a name or #rrggbb."""
    labels: Literal["auto", "none"] = "auto"
    """auto takes classes from first-level sub-folders or label arrays; none ignores them."""
    holdout: str = ""
    """Pictures never trained on: a share such as 0.05, a first-level sub-folder, or other DATA."""
    flip: bool = True
    """Mirror pictures left to right at random."""
    cache: Literal["auto", "always", "never"] = "auto"
    """Decode once into a cache, or stream from the files at every step; auto streams what is too large."""
    low_size: tuple[int, int] = (0, 0)
    """For an upsampler, height and width of the small pictures it enlarges; 0 0 for a quarter."""

    @property
    def small(self) -> tuple[int, int]:
        """Height and width of an upsampler's small pictures."""
        return self.low_size if all(self.low_size) else (self.size[0] // 4, self.size[1] // 4)


@dataclass(frozen=True)
class NetConfig:
    """The U-Net; the defaults are Ho et al.'s for CIFAR-10."""

    channels: int = 128
    """Width of the finest level."""
    multipliers: tuple[int | float, ...] = (1, 2, 2, 2)
    """Width of each level as a multiple of it."""
    blocks: int = 2
    """Residual blocks a level."""
    attention: tuple[int, ...] = (1,)
    """Levels with self-attention, 0 being the finest."""
    dropout: float = 0.1
    """Inside the residual blocks."""
    groups: int = 32
    """Groups of the normalisations."""
    patch: int = 1
    """Pictures enter as patch x patch cells: over 1, faster and coarser."""
    style: Literal["ho", "openai"] = "ho"
    """Padding, epsilon, time embedding and initialisation as Ho et al.'s or OpenAI's code has them."""
    heads: int = 1
    """Heads of each self-attention."""
    head_channels: int = 0
    """Channels a head, in place of a fixed number of heads; 0 for that."""
    qkv: Literal["legacy", "split"] = "legacy"
    """Order of attention's channels: q, k, v within each head, or all heads' q, then k, then v."""
    scale_shift: bool = False
    """The time embedding scales and shifts the normalised features instead of being added."""
    resample: Literal["conv", "block"] = "conv"
    """Halve and double by a convolution, or inside a residual block, as BigGAN and ADM do."""


@dataclass(frozen=True)
class ChainConfig:
    """The noise levels."""

    schedule: Literal["linear", "cosine", "sigmoid", "betas"] = "linear"
    """Course of the noise."""
    steps: int = 1000
    """T, the number of levels."""
    betas: tuple[float, ...] = ()
    """For the schedule betas: each step's noise variance."""
    rescale: bool = False
    """The net is told the timestep times 1000/T, as OpenAI's rescale_timesteps."""


@dataclass(frozen=True)
class DenoiserConfig:
    """What the net's output means."""

    predicts: Literal["eps", "x0", "v", "mean"] = "eps"
    """What the net predicts."""
    variance: Literal["small", "large", "learned", "learned_range"] = "large"
    """Variance of a reverse step: the posterior's, the forward step's, or learned, freely or between the two."""
    clip: bool = True
    """Keep the predicted picture in [-1, 1] when sampling."""


@dataclass(frozen=True)
class LossConfig:
    """What training minimises."""

    kind: Literal["simple", "hybrid", "vlb"] = "simple"
    """The error of the net's output, the variational bound, or the first plus vlb_weight of the second."""
    vlb_weight: float = 0.001
    """Weight of the bound, a sum of T terms in bits/dim, in hybrid."""
    error: Literal["l2", "l1", "huber"] = "l2"
    """Squared, absolute or Huber error of the net's output."""
    weight: Literal["simple", "min-snr", "p2"] = "simple"
    """Weight of the levels."""
    min_snr: float = 5.0
    """Cap of the SNR for the weight min-snr."""
    p2_k: float = 1.0
    """k of the weight p2."""
    p2_gamma: float = 1.0
    """Exponent of the weight p2."""
    huber_delta: float = 1.0
    """Where the Huber error turns from squared to absolute."""
    times: Literal["uniform", "low-discrepancy", "loss-second-moment"] = "uniform"
    """How the levels of a batch are drawn."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam and the course of its learning rate."""

    lr: float = 2e-4
    """Highest learning rate."""
    warmup: int = 5000
    """Steps over which the rate rises from 0."""
    decay: Literal["none", "linear", "cosine"] = "none"
    """Course of the rate from there to the last step."""
    beta1: float = 0.9
    """Decay of Adam's mean of gradients."""
    beta2: float = 0.999
    """Decay of Adam's mean of squared gradients."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 for no limit."""
    ema: float = 0.9999
    """Decay of the averaged weights, reached after a warm-up of (1 + k)/(10 + k)."""


@dataclass(frozen=True)
class TrainConfig:
    """What is trained, how long, how much at once, how often to look."""

    steps: int = 800_000
    """Optimizer steps."""
    batch: int = 128
    """Pictures an optimizer step."""
    accumulate: int = 1
    """Parts a batch is computed in."""
    seed: int = 0
    """Seed of everything random."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision."""
    compile: bool = False
    """Compile the net: slower to start, then faster."""
    checkpoint_activations: bool = False
    """Compute activations again on the way back instead of keeping them: less memory, more time."""
    init_from: str = ""
    """Model whose weights training starts from."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where the log goes besides log.jsonl, through accelerate."""
    log_every: int = 50
    """Steps between two lines of the log."""
    preview_every: int = 5000
    """Steps between two looks: a preview grid, held-out pictures; 0 for no grid, and a look at each checkpoint."""
    checkpoint_every: int = 5000
    """Steps between two checkpoints; the last step always makes one."""
    keep: int = 2
    """Checkpoints kept, the newest ones."""
    task: Literal["image", "classifier", "upsampler"] = "image"
    """A model of pictures, a classifier of noisy pictures, or a model of pictures given small ones."""
    label_drop: float = 0.0
    """Share of labels left out, which classifier-free guidance needs: 0.1; 0 for none."""
    evaluate_every: int = 0
    """Steps between two scores of what the averaged net draws, the best one's checkpoint kept; 0 for none."""
    evaluate_samples: int = 500
    """Pictures drawn for a score, always of the same seed."""
    evaluate_features: str = "random"
    """Feature net of the score: random, inception, or an exported program."""
    keep_every: int = 0
    """Keep the checkpoint of every so many steps besides the newest; 0 for none."""
    bad_steps: int = 10
    """Steps in a row whose loss or gradient is no number before training goes back, once, at a lower rate."""
    shard: bool = False
    """Of several processes each holds a part of the weights (FSDP), for nets that do not fit one device."""
    checkpoint_levels: int = 0
    """With checkpoint_activations, of how many levels of the net, the finest first, which hold most; 0 for all."""
    winograd: bool = True
    """On a CPU, wide 3x3 convolutions by Winograd's algorithm: faster, gradients to 1e-5; not when compiled."""


@dataclass(frozen=True)
class Config:
    """One training."""

    data: DataConfig = field(default_factory=DataConfig)
    net: NetConfig = field(default_factory=NetConfig)
    chain: ChainConfig = field(default_factory=ChainConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def with_(self, **changes: Any) -> Config:
        """A copy with fields changed, by dotted names with __ for the dot: with_(net__channels=64)."""
        config = self
        for name, value in changes.items():
            section, _, item = name.partition("__")
            part = dataclasses.replace(getattr(config, section), **{item: value})
            config = dataclasses.replace(config, **{section: part})
        return config


_SCORED = ("train.evaluate_every", "train.evaluate_samples", "train.evaluate_features")
_WITHOUT: dict[str, tuple[str, ...]] = {
    "image": ("data.low_size",),
    "upsampler": _SCORED,
    "classifier": (
        "data.low_size",
        *_SCORED,
        *(f"denoiser.{item.name}" for item in dataclasses.fields(DenoiserConfig)),
        *(f"loss.{item.name}" for item in dataclasses.fields(LossConfig) if item.name != "times"),
        "train.label_drop",
    ),
}


def meaningless(config: Config) -> frozenset[str]:
    """The fields, by dotted name, that mean nothing for the config's task."""
    return frozenset(_WITHOUT.get(config.train.task, ()))


def to_json(config: Any) -> dict[str, Any]:
    """A record as plain JSON values."""
    values: dict[str, Any] = dataclasses.asdict(config)
    return values


def from_json(cls: type[C], values: Any, where: str = "config") -> C:
    """The record again; UserError names an unknown key and the nearest known one, or a value of a wrong type.

    Keys that are missing take their defaults, so that a newer version reads an older file. Numbers are finite, and
    whole ones have at most 64 bits.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: holds {short(values)}; it is a table of settings")
    hints = get_type_hints(cls)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(str(key)[:100], hints, n=1)
            raise UserError(
                f"{where}.{short(key)[1:-1] if len(str(key)) > 100 else key}: no such setting"
                + (f"; did you mean {near[0]}?" if near else f"; there are {', '.join(hints)}")
            )
    return cls(**{key: _value(hints[key], value, f"{where}.{key}") for key, value in values.items()})


def _value(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return from_json(kind, value, where)  # type: ignore[arg-type]
    if get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis and not isinstance(value, (dict, list, tuple)):
        value = (value,)  # one of them may stand without brackets
    if get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        parts = get_args(kind)
        if parts == (str, ...) and all(type(v) is str for v in value):
            return tuple(value)  # the names of classes, of which there may be very many
        if len(parts) == 2 and parts[1] is Ellipsis:
            return tuple(_value(parts[0], v, where) for v in value)
        if len(parts) == len(value):
            return tuple(_value(part, v, where) for part, v in zip(parts, value, strict=True))
    elif get_origin(kind) is Literal and value in get_args(kind):
        return value
    elif kind is float and type(value) in (int, float) and _countable(value):
        return float(value)
    elif type(value) in (get_args(kind) if get_origin(kind) is UnionType else (kind,)) and _countable(value):
        return value
    wanted = (
        " or ".join(map(str, get_args(kind))) if get_origin(kind) is Literal else getattr(kind, "__name__", kind)
    )
    finite = "" if _countable(value) else "finite " if type(value) is float else "64-bit "
    raise UserError(f"{where}: holds {short(value)}; takes {finite}{wanted}")


def _countable(value: Any) -> bool:
    """Not a number without end, nor one of more than 64 bits."""
    if type(value) is float:
        return math.isfinite(value)
    return type(value) is not int or -(2**63) <= value < 2**64
