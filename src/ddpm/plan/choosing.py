"""From the data, the kind of device and about so much time: pictures, net, target, batch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ddpm.checking import check
from ddpm.config import Config
from ddpm.data import Look, Source
from ddpm.denoiser import LEARNED
from ddpm.errors import UserError
from ddpm.nets.levels import widths_of
from ddpm.plan.decisions import Choices
from ddpm.units import duration

FEW = 2000
"""Pictures below which a net soon learns the pictures by heart, and the plan takes dropout against it."""
# A model is worth looking at after some 50,000 pictures. These sizes and widths see as many in the time.
_SHORT = 1800.0  # until then pictures are at most 32 pixels a side
_SECONDS = 600.0  # for a net of 32 channels over 256 places; the time goes with places and the square of channels


def for_data(
    source: Source,
    device: torch.device,
    asked: Mapping[str, Any],
    seconds: float,
    because: Mapping[str, str] | None = None,
) -> Choices:
    """All that does not need the pictures decoded; each choice follows from what was asked for before it.

    asked, because: those of `Choices`.
    """
    early = {k: v for k, v in asked.items() if k.startswith(("data.", "net.")) or k == "train.task"}
    if "data.size" not in asked:  # which decides what is small
        early.pop("data.low_size", None)
    check(Config().with_(**{k.replace(".", "__"): v for k, v in early.items()}))
    look = readable(source)
    choices = Choices(Config(), asked, because)
    classifies = choices["train.task"] == "classifier"
    if classifies:
        choices.say("task", f"classifier of {len(source.classes):,} classes", "", "train.task")
    _pictures(choices, look, device, seconds)
    _net(choices, device, seconds, len(source))
    _chain(choices)
    if classifies:
        choices.pick("loss.times", "low-discrepancy")
        choices.pick("train.preview_every", 0)
    else:
        _target(choices, device)
        _labels(choices)
    usual = usual_batch(choices["data.size"], device)
    batch = choices.pick("train.batch", min(usual, len(source)))
    why = f"usual on {device.type}"
    if batch < usual:
        why = f"all pictures at once: fewer than the usual {usual}"
    choices.say("batch", batch, why, "train.batch")
    return choices


def readable(source: Source) -> Look:
    """A look at the source; UserError if nothing in it can be read."""
    look = source.look()
    if not look.sizes:
        name, reason = look.unreadable[0]
        raise UserError(
            f"{source.name}: none of the {look.seen} pictures looked at can be read, as {name} ({reason}); "
            "give others"
        )
    return look


def usual_batch(size: tuple[int, int], device: torch.device) -> int:
    """Ho et al.'s batches on a GPU (128 at 32 x 32, 64 at 256 x 256), 32 elsewhere."""
    return 32 if device.type != "cuda" else 128 if max(size) <= 32 else 64


def _pictures(choices: Choices, look: Look, device: torch.device, seconds: float) -> None:
    largest = 32 if device.type != "cuda" and seconds < _SHORT else 64
    own, exact, side = _size(look.sizes, largest)
    size = choices.pick("data.size", own)
    why = f"sized for {duration(seconds)} on {device.type}"
    if side >= 2 * max(size):
        why += "; --size asks for more"
    if exact:
        why = "the pictures' own" + (", cut to multiples of 4" if own not in look.sizes else "")
    choices.say("size", f"{size[0]} x {size[1]}", why, "data.size")
    choose_small(choices)
    cut = _cut_away(look.sizes, size)
    if cut >= 0.005 and choices["data.crop"] in ("centre", "random"):
        why = f"{cut:.0%} of an average picture lies outside this shape; --data.crop pad keeps it, none stretches"
        choices.say("crop", choices["data.crop"], why, "data.crop")
    channels = choices.pick("data.channels", 1 if look.colour == 0 else 3)
    why = "all pictures are grey" if look.colour == 0 else "the pictures have colour"
    if look.alpha:
        ground = choices["data.background"]
        why += f"; transparency is put on {ground}, --data.channels 4 keeps it"
    choices.say("channels", channels, why, "data.channels")
    flip = choices.pick("data.flip", look.colour > 0)
    why = "mirrored left to right at random: twice the pictures; --data.no-flip where left is not right"
    if look.colour == 0:
        why = "grey pictures are often of things that face one way; --data.flip turns mirroring on"
    choices.say("flips", "on" if flip else "off", why, "data.flip")


def choose_small(choices: Choices) -> None:
    """What an upsampler enlarges: a quarter of its pictures' height and width."""
    if choices["train.task"] != "upsampler":
        return
    why = "a quarter of the size; --data.low-size asks for another"
    if any(choices["data.low_size"]):
        why = "the preset's"
    low = choices.pick("data.low_size", choices.config.data.small)
    choices.say("task", "upsampler", "", "train.task")
    choices.say("small pictures", f"{low[0]} x {low[1]}", why, "data.low_size")


def _size(sizes: Counter[tuple[int, int]], largest: int) -> tuple[tuple[int, int], bool, int]:
    """The pictures' own size in whole 4s, if they have one that is not too large, else a square most of them fill.

    The second value says which of the two it is, the third is the median of the shorter sides there are.
    """
    sides = sorted(min(size) for size, count in sizes.items() for _ in range(count))
    median = sides[len(sides) // 2]
    common = max(sizes, key=lambda size: sizes[size])
    if len(sizes) == 1 and max(common) <= largest and min(common) >= 4:
        return (common[0] // 4 * 4, common[1] // 4 * 4), True, median
    side = max((side for side in (16, 32, 64, 128) if side <= min(median, largest)), default=16)
    return (side, side), False, median


def _cut_away(sizes: Counter[tuple[int, int]], size: tuple[int, int]) -> float:
    """Share of an average picture outside the largest window of the size's shape."""
    shape, kept = size[0] / size[1], 0.0
    for (high, wide), count in sizes.items():
        kept += count * min(high / wide / shape, shape * wide / high)
    return 1.0 - kept / sum(sizes.values())


def _net(choices: Choices, device: torch.device, seconds: float, pictures: int) -> None:
    """Halves pictures to about 8 x 8; on a GPU the papers' widths, else narrow, over cells of 2 x 2 pixels."""
    size, gpu, classifies = choices["data.size"], device.type == "cuda", choices["train.task"] == "classifier"
    cells = not gpu and min(size) >= 24 and size[0] % 2 == size[1] % 2 == 0
    patch = max(1, choices.pick("net.patch", 2 if cells else 1))  # the net itself refuses less
    if patch > 1:
        choices.say("cells", f"{patch} x {patch}", f"of pixels enter as one: faster on {device.type}", "net.patch")
    places = size[0] * size[1] / patch**2
    affordable = [wide for wide in (32, 48, 64) if _SECONDS * places / 256 * (wide / 32) ** 2 <= seconds]
    channels = choices.pick("net.channels", 128 if gpu else max(affordable, default=32))
    paper = "ADM's classifiers'" if classifies else "Ho et al.'s"
    why = paper if gpu else f"sees enough pictures in {duration(seconds)} on {device.type}"
    choices.say("width", channels, f"channels at the finest level: {why}", "net.channels")
    levels = _levels(size, patch)
    multipliers = choices.pick("net.multipliers", (1, *(2 for _ in range(levels - 1))))
    levels, widths = len(multipliers), widths_of(channels, multipliers)
    least = " x ".join(str(side // patch >> (levels - 1)) for side in size)
    blocks = choices.pick("net.blocks", 2 if gpu else 1)
    why = f"the coarsest has {least} places; {blocks} block{'s' * (blocks > 1)} a level"
    choices.say("levels", f"{levels} of {' '.join(map(str, widths))}", why, "net.multipliers")
    sides = [max(size) // patch >> level for level in range(levels)]
    (_classifier_attention if classifies else _attention)(choices, sides, widths, gpu)
    usual = 32 if gpu else 8
    dividing = _divisor(widths, usual)
    groups = choices.pick("net.groups", dividing)
    if groups != usual:
        choices.say("groups", groups, f"of the normalisations: {usual} do not divide every width", "net.groups")
    few = pictures < FEW
    dropout = choices.pick("net.dropout", 0.1 if few or (gpu and not classifies) else 0.0)
    why = "Ho et al.'s for CIFAR-10" if gpu else "a narrow net does not learn so many pictures by heart"
    if classifies:
        why = "as ADM's classifiers, which weight decay holds back"
    if few:
        why = f"fewer than {FEW:,} pictures, which a net soon learns by heart"
    choices.say("dropout", f"{dropout:g}", why, "net.dropout")


def _attention(choices: Choices, sides: Sequence[int], widths: Sequence[int], gpu: bool) -> None:
    """Of a model of pictures, whose levels have so many places a side: at 16 x 16, on a GPU."""
    sixteen = tuple(level for level, side in enumerate(sides) if side == 16)
    attention = choices.pick("net.attention", sixteen if gpu else ())
    why = "elsewhere it gained nothing" if not gpu else "there is no level of 16 x 16"
    if attention:
        why = "and the middle: at 16 x 16, as Ho et al."
    choices.say("attention", _at(attention), why, "net.attention")


def _classifier_attention(choices: Choices, sides: Sequence[int], widths: Sequence[int], gpu: bool) -> None:
    """ADM's encoder: attention on the coarse levels in heads of one width, residual blocks that halve."""
    adm = {"net.style": "openai", "net.scale_shift": True, "net.resample": "block"}
    for name, value in adm.items():
        choices.pick(name, value)
    why = "blocks that halve, the time scales and shifts their features, attention pools (Dhariwal & Nichol 2021)"
    if all(choices[name] == value for name, value in adm.items()):
        choices.say("net", "ADM's encoder", why, *adm)
    largest = 32 if gpu else 8
    attention = choices.pick("net.attention", tuple(k for k, side in enumerate(sides) if side <= largest))
    why = f"and the middle: from {largest} x {largest} places down" + (
        ", as ADM's" if gpu else ", where it is cheap"
    )
    attending = [widths[level] for level in attention if 0 <= level < len(widths)] + [widths[-1]]
    usual = 64 if gpu else 32
    heads = "net.heads" in choices.asked
    head = choices.pick("net.head_channels", 0 if heads else _divisor(attending, usual))
    if head:
        why += f"; in heads of {head} channels"
    choices.say("attention", _at(attention), why, "net.attention")


def _at(attention: Sequence[int]) -> str:
    return f"level{'s' * (len(attention) > 1)} {' '.join(map(str, attention))}" if attention else "middle"


def _divisor(widths: Sequence[int], largest: int) -> int:
    """The largest number up to `largest` that divides every width."""
    together = math.gcd(*widths)
    return max(n for n in range(1, largest + 1) if together % n == 0)


def _levels(size: tuple[int, int], patch: int) -> int:
    """Levels until the coarsest is at most 8 places a side, as long as both sides can be halved evenly."""
    levels, height, width = 1, size[0] // patch, size[1] // patch
    while max(height, width) > 8 and height % 2 == width % 2 == 0:
        levels, height, width = levels + 1, height // 2, width // 2
    return levels


def _kind(choices: Choices) -> str:
    """simple, unless the bound was asked for, or a variance that only the bound teaches."""
    learned = choices["denoiser.variance"] in LEARNED
    kind: str = choices.pick("loss.kind", "hybrid" if learned else "simple")
    if kind == "simple":
        choices.pick("loss.times", "low-discrepancy")
        return kind
    variance = choices.pick("denoiser.variance", "learned_range")
    times = choices.pick("loss.times", "loss-second-moment" if kind == "vlb" else "low-discrepancy")
    learned = variance in LEARNED
    why = f"what teaches the variance {variance}" if learned else f"the bound, with the variance {variance}"
    choices.say("loss", kind, why, "loss.kind")
    why = f"what {kind} teaches, at every pixel" if learned else "fixed"
    choices.say("variance", variance, why, "denoiser.variance")
    why = "spread evenly over each batch"
    if times == "loss-second-moment":
        why = "more often where the terms are large, so that a batch's gradient varies less"
    choices.say("levels of t", times, why, "loss.times")
    return kind


def _chain(choices: Choices) -> None:
    """The noise levels: the same for every task, as a classifier has to know those of the model that it guides."""
    betas = choices["chain.betas"]
    choices.pick("chain.schedule", "betas" if betas else "cosine")
    choices.pick("chain.steps", len(betas) or 1000)


def _labels(choices: Choices) -> None:
    """How many pictures are trained on as if they had no class."""
    if share := choices["train.label_drop"]:
        why = "so that the net also draws without a class, which --cfg-scale needs"
        choices.say("labels left out", f"of {100 * share:.3g} %", why, "train.label_drop")


def _target(choices: Choices, device: torch.device) -> None:
    """What the net learns to predict, by which measure, at which levels of noise."""
    kind = _kind(choices)
    # docs/log.md, Grain: colour pictures of a narrow net are speckled with v and clean with x0 and min-SNR (one
    # seed, nothing else changed); on grey garments v and x0 could not be told apart.
    plain = choices["data.channels"] > 1 and device.type != "cuda" and kind == "simple"
    predicts = choices.pick("denoiser.predicts", "x0" if plain else "v")
    weight = choices.pick("loss.weight", "min-snr" if plain and predicts == "x0" else "simple")
    why = (
        "left less grain in colour pictures of a narrow net"
        if plain
        else "what the recipes for grey pictures and for a GPU were chosen with"
    )
    if kind != "simple":
        # Flowers, 400 steps of hybrid: 5.7 bits/dim with v, 41 with x0 and min-SNR weights (docs/log.md).
        why = "v is exact at the clean levels, which hold most of the bits; x0 is not"
    if kind == "vlb":
        choices.say("target", predicts, why, "denoiser.predicts")
        return
    choices.say("target", f"{predicts}, {weight} weights", why, "denoiser.predicts", "loss.weight")
