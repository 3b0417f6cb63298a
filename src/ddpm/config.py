"""Everything that can be chosen about a training, as plain frozen records; imports no torch.

A config is complete: what a run was made with, never what is still to be decided. It is saved with every
checkpoint, and each field is an option of the command line by its dotted name, as `--net.channels 64`.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from ddpm.errors import UserError

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


_WITHOUT: dict[str, tuple[str, ...]] = {
    "image": ("data.low_size",),
    "classifier": (
        "data.low_size",
        *(f"denoiser.{item.name}" for item in dataclasses.fields(DenoiserConfig)),
        *(f"loss.{item.name}" for item in dataclasses.fields(LossConfig) if item.name != "times"),
        "train.label_drop",
    ),
}
_REFUSED_BY_CLASSIFIERS = ("denoiser.predicts", "denoiser.variance", "loss.kind", "loss.error", "loss.weight")


def meaningless(config: Config) -> frozenset[str]:
    """The fields, by dotted name, that mean nothing for the config's task."""
    return frozenset(_WITHOUT.get(config.train.task, ()))


def _check_classifier(config: Config) -> None:
    """UserError for what only models of pictures have, unless it is as if it had been left out."""
    if config.data.labels == "none":
        raise UserError("--labels none: a classifier learns classes; leave it out")
    for name in _REFUSED_BY_CLASSIFIERS:
        section, _, item = name.partition(".")
        value = getattr(getattr(config, section), item)
        if value != getattr(getattr(Config(), section), item):
            raise UserError(
                f"--{name} {value}: is of models of pictures; a classifier has logits and the cross-entropy, "
                "leave it out"
            )


def _check_small(data: DataConfig, upsamples: bool) -> None:
    """UserError for small pictures that no upsampler could enlarge, or that there is no upsampler for."""
    given = any(data.low_size)
    low = data.low_size if given else data.small
    shown, size = (" ".join(map(str, pair)) for pair in (low, data.size))
    if given and not upsamples:
        raise UserError(f"--data.low-size {shown}: is of upsamplers; add --task upsampler, or leave it out")
    if upsamples and not all(1 <= small < side for small, side in zip(low, data.size, strict=True)):
        raise UserError(
            f"--data.low-size {shown}: is at least 1 1, and less than the size, {size}, in both directions; give "
            "another, or another --size"
        )


def check(config: Config) -> Config:
    """The config itself; UserError names the option out of its range. Net sizes are checked by the net."""
    data, net, optimizer, train = config.data, config.net, config.optimizer, config.train
    if train.task == "classifier":
        _check_classifier(config)
    _check_small(data, train.task == "upsampler")
    learned = config.denoiser.variance in ("learned", "learned_range")
    weighable = config.loss.weight == "simple" or config.denoiser.predicts != "mean"
    rules: list[tuple[str, Any, bool, str]] = [
        ("--data.size", data.size, min(data.size) >= 1, "is at least 1 x 1"),
        (
            "--data.channels",
            data.channels,
            data.channels in (1, 3, 4),
            "takes 1 (grey), 3 (colour) or 4 (with transparency)",
        ),
        ("--net.channels", net.channels, net.channels >= 4 and net.channels % 2 == 0, "is even and at least 4"),
        (
            "--net.multipliers",
            net.multipliers,
            min(net.multipliers, default=0) > 0,
            "has one above 0 a level",
        ),
        ("--net.blocks", net.blocks, net.blocks >= 1, "is at least 1"),
        ("--net.groups", net.groups, net.groups >= 1, "is at least 1"),
        ("--net.heads", net.heads, net.heads >= 1, "is at least 1"),
        ("--net.head-channels", net.head_channels, net.head_channels >= 0, "is not negative; 0 takes --net.heads"),
        ("--net.dropout", net.dropout, 0 <= net.dropout < 1, "lies in [0, 1)"),
        ("--chain.steps", config.chain.steps, config.chain.steps >= 1, "is at least 1"),
        (
            "--chain.betas",
            "given",
            not config.chain.betas or config.chain.schedule == "betas",
            "needs --chain.schedule betas",
        ),
        (
            "--loss.kind",
            config.loss.kind,
            learned or config.loss.kind != "hybrid",
            "teaches a variance; take --denoiser.variance learned_range",
        ),
        (
            "--denoiser.variance",
            config.denoiser.variance,
            not learned or config.loss.kind != "simple",
            "is taught by the bound alone; take --loss.kind hybrid or vlb",
        ),
        (
            "--loss.error",
            config.loss.error,
            config.loss.kind != "vlb" or config.loss.error == "l2",
            "is of simple and hybrid; the bound has its own, leave it out",
        ),
        (
            "--loss.weight",
            config.loss.weight,
            config.loss.kind != "vlb" or config.loss.weight == "simple",
            "is of simple and hybrid; the bound weighs its terms itself, leave it out",
        ),
        ("--loss.vlb-weight", config.loss.vlb_weight, config.loss.vlb_weight > 0, "is positive"),
        ("--loss.weight", config.loss.weight, weighable, "needs a net that predicts eps, x0 or v"),
        ("--loss.min-snr", config.loss.min_snr, config.loss.min_snr > 0, "is positive"),
        ("--loss.p2-k", config.loss.p2_k, config.loss.p2_k > 0, "is positive"),
        ("--loss.huber-delta", config.loss.huber_delta, config.loss.huber_delta > 0, "is positive"),
        ("--optimizer.lr", optimizer.lr, optimizer.lr > 0, "is positive"),
        ("--optimizer.warmup", optimizer.warmup, optimizer.warmup >= 0, "is not negative"),
        ("--optimizer.beta1", optimizer.beta1, 0 <= optimizer.beta1 < 1, "lies in [0, 1)"),
        ("--optimizer.beta2", optimizer.beta2, 0 <= optimizer.beta2 < 1, "lies in [0, 1)"),
        ("--optimizer.weight-decay", optimizer.weight_decay, optimizer.weight_decay >= 0, "is not negative"),
        ("--optimizer.clip", optimizer.clip, optimizer.clip >= 0, "is not negative"),
        ("--optimizer.ema", optimizer.ema, 0 <= optimizer.ema < 1, "lies in [0, 1)"),
        ("--label-drop", train.label_drop, 0 <= train.label_drop < 1, "lies in [0, 1)"),
        (
            "--label-drop",
            train.label_drop,
            not train.label_drop or train.task != "classifier",
            "is of models of pictures; a classifier learns from every label, leave it out",
        ),
        ("--steps", train.steps, train.steps >= 1, "is at least 1"),
        ("--batch", train.batch, train.batch >= 1, "is at least 1"),
        (
            "--train.accumulate",
            train.accumulate,
            1 <= train.accumulate <= train.batch,
            "lies between 1 and the batch",
        ),
        ("--seed", train.seed, 0 <= train.seed < 2**64, "lies in [0, 2^64)"),
        ("--train.log-every", train.log_every, train.log_every >= 1, "is at least 1"),
        ("--train.preview-every", train.preview_every, train.preview_every >= 0, "is not negative"),
        ("--checkpoint-every", train.checkpoint_every, train.checkpoint_every >= 1, "is at least 1"),
        ("--train.keep", train.keep, train.keep >= 1, "is at least 1"),
    ]
    for option, value, holds, rule in rules:
        if not holds:
            raise UserError(f"{option} {value}: {rule}")
    return config


def to_json(config: Any) -> dict[str, Any]:
    """A record as plain JSON values."""
    values: dict[str, Any] = dataclasses.asdict(config)
    return values


def from_json(cls: type[C], values: Any, where: str = "config") -> C:
    """The record again; UserError names an unknown key and the nearest known one, or a value of a wrong type.

    Keys that are missing take their defaults, so that a newer version reads an older file.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: holds {values!r}; it is a table of settings")
    hints = get_type_hints(cls)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1)
            raise UserError(f"{where}.{key}: no such setting" + (f"; did you mean {near[0]}?" if near else ""))
    return cls(**{key: _value(hints[key], value, f"{where}.{key}") for key, value in values.items()})


def _value(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return from_json(kind, value, where)  # type: ignore[arg-type]
    if get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis and not isinstance(value, (dict, list, tuple)):
        value = (value,)  # one of them may stand without brackets
    if get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        parts = get_args(kind)
        if len(parts) == 2 and parts[1] is Ellipsis:
            return tuple(_value(parts[0], v, where) for v in value)
        if len(parts) == len(value):
            return tuple(_value(part, v, where) for part, v in zip(parts, value, strict=True))
    elif get_origin(kind) is Literal and value in get_args(kind):
        return value
    elif kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif type(value) in (get_args(kind) if get_origin(kind) is UnionType else (kind,)):
        return value
    wanted = (
        " or ".join(map(str, get_args(kind))) if get_origin(kind) is Literal else getattr(kind, "__name__", kind)
    )
    raise UserError(f"{where}: holds {value!r}; takes {wanted}")
