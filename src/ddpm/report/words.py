"""A config in sentences: what a person would say of the model, the data and the training."""

from __future__ import annotations

from ddpm.config import Config
from ddpm.nets.levels import widths_of
from ddpm.store import Facts
from ddpm.units import counted

_PREDICTS = {
    "eps": "the noise ε in the picture",
    "x0": "the clean picture x₀",
    "v": "v = α ε − σ x₀, a blend of noise and picture",
    "mean": "the mean of the next, slightly cleaner picture",
}
_VARIANCES = {
    "learned": " A second output is the logarithm of the variance of the step down from t, pixel by pixel.",
    "learned_range": " A second output says, pixel by pixel, where the variance of the step down from t lies "
    "between its smallest and largest sensible values.",
}
_ERRORS = {"l2": "squared error", "l1": "absolute error", "huber": "Huber error"}
_WEIGHTS = {
    "simple": "all noise levels counting alike",
    "min-snr": "levels weighted by min-SNR (cap {min_snr:g}), so that nearly clean pictures do not rule",
    "p2": "levels weighted by P2, which favours the coarse over the last details",
}
_BOUND = "the variational bound on the negative log-likelihood, in bits/dim"
_TIMES = {
    "uniform": "drawn independently",
    "low-discrepancy": "spread evenly over each batch",
    "loss-second-moment": "drawn more often where the loss has been large, and counted less there",
}
_CROPS = {
    "centre": "cut from the centre where shapes differ",
    "random": "cut at random where shapes differ",
    "pad": "padded to the shape",
    "none": "stretched to the shape",
}
_DECAYS = {
    "none": "stays there",
    "linear": "falls in a line to 0 at the last step",
    "cosine": "falls along a cosine to 0 at the last step",
}


def model(config: Config, parameters: int, classes: int = 0) -> str:
    """The net, what it predicts, or which of so many classes, and the chain."""
    net, levels = config.net, len(config.net.multipliers)
    widths = ", ".join(map(str, widths_of(net.channels, net.multipliers)))
    cells = f" It sees the picture in cells of {net.patch} × {net.patch} pixels." if net.patch > 1 else ""
    attention = f" and self-attention on {counted(len(net.attention), 'level')}" if net.attention else ""
    variance = _VARIANCES.get(config.denoiser.variance, "")
    kind, told = "A U-Net", f"it predicts {_PREDICTS[config.denoiser.predicts]}.{variance}"
    if config.train.task == "upsampler":
        h, w = config.data.small
        told = f"and the picture in {w} × {h}, which it is to enlarge, {told}"
    if config.train.task == "classifier":
        kind = "An encoder"
        told = f"it says how likely each of {classes:,} classes is, p(y | xₜ), and so guides a model of pictures."
    return (
        f"{kind} of {amount(float(parameters))} parameters, {counted(levels, 'level')} deep ({widths} channels), "
        f"{counted(net.blocks, 'residual block')} a level{attention}.{cells} Given a picture xₜ at noise level t "
        f"{told} There are "
        f"{config.chain.steps:,} levels on {_chain(config)}: level 0 is the clean picture, level "
        f"{config.chain.steps:,} next to nothing but noise."
    )


def _chain(config: Config) -> str:
    return "a chain of given β" if config.chain.schedule == "betas" else f"the {config.chain.schedule} schedule"


def objective(config: Config) -> str:
    """What training minimises."""
    loss = config.loss
    weight = _WEIGHTS[loss.weight].format(min_snr=loss.min_snr)
    if config.train.task == "classifier":
        return f"Training minimises the cross-entropy −log p(y | xₜ); the levels are {_TIMES[loss.times]}."
    what = f"the {_ERRORS[loss.error]} of that prediction, {weight}"
    if loss.kind == "hybrid":
        what += f", plus {loss.vlb_weight:g} times {_BOUND}, which teaches the variance alone"
    elif loss.kind == "vlb":
        what = _BOUND
    return f"Training minimises {what}; the levels are {_TIMES[loss.times]}."


def course(config: Config, facts: Facts) -> str:
    """Steps, batch, rate, averages."""
    train, optimizer = config.train, config.optimizer
    images = train.steps * train.batch
    passes = f", {amount(images / facts.count)} passes over the data" if facts.count else ""
    whole = f" in {train.accumulate} parts" if train.accumulate > 1 else ""
    precision = "" if train.precision == "no" else f" Computed in {train.precision}."
    decay = f" Weight decay is {optimizer.weight_decay:g}." if optimizer.weight_decay else ""
    use = "It is measured, and guides, with" if train.task == "classifier" else "Samples are drawn with"
    began = f" Training began from the weights of {train.init_from}." if train.init_from else ""
    return (
        f"{counted(train.steps, 'step')} of Adam with {train.batch} pictures each{whole} make {images:,} "
        f"pictures{passes}. The learning rate rises over {optimizer.warmup:,} steps to {optimizer.lr:.1e} and "
        f"{_DECAYS[optimizer.decay]}.{decay} {use} averaged weights (EMA), which "
        f"remember about {counted(round(1 / (1 - optimizer.ema)), 'step')}.{precision}{began}"
    )


def data(config: Config, facts: Facts) -> str:
    """The pictures and what was done to them."""
    height, width = config.data.size
    kind = {1: "grey", 3: "colour", 4: "colour with transparency"}[config.data.channels]
    flips = " Each is shown mirrored half of the time." if config.data.flip else ""
    skipped = f" {facts.skipped:,} could not be read and were left out." if facts.skipped else ""
    held = f" Held out and never trained on: {_held_out(config.data.holdout)}." if config.data.holdout else ""
    classes = f" in {counted(len(facts.classes), 'class', 'classes')}" if facts.classes else ", without classes"
    return (
        f"{counted(facts.count, 'picture')} of {facts.name}{classes}, brought to {width} × {height} pixels, "
        f"{kind}, {_CROPS[config.data.crop]}.{flips}{skipped}{held}"
    )


def _held_out(asked: str) -> str:
    try:
        return f"{100 * float(asked):.3g} % of all"
    except ValueError:
        return asked


def amount(value: float) -> str:
    """A number as a person says it: 0.4, 7.5, 312, 1,500, 1.5 million."""
    if value >= 1e9:
        return f"{value / 1e9:.1f} billion"
    if value >= 1e6:
        return f"{value / 1e6:.1f} million"
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}".removesuffix(".0")
