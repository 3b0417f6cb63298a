"""The rules that a config keeps to, each with the option that breaks it."""

from __future__ import annotations

from typing import Any

from ddpm.config import Config, DataConfig
from ddpm.errors import UserError

_REFUSED_BY_CLASSIFIERS = ("denoiser.predicts", "denoiser.variance", "loss.kind", "loss.error", "loss.weight")


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
        ("--train.keep-every", train.keep_every, train.keep_every >= 0, "is not negative"),
        ("--train.checkpoint-levels", train.checkpoint_levels, train.checkpoint_levels >= 0, "is not negative"),
        ("--train.bad-steps", train.bad_steps, train.bad_steps >= 1, "is at least 1"),
        ("--train.evaluate-every", train.evaluate_every, train.evaluate_every >= 0, "is not negative"),
        (
            "--train.evaluate-every",
            train.evaluate_every,
            not train.evaluate_every or train.task == "image",
            "scores what a model draws by itself; of a classifier and an upsampler the held-out error is logged",
        ),
        ("--train.evaluate-samples", train.evaluate_samples, train.evaluate_samples >= 2, "is at least 2"),
    ]
    for option, value, holds, rule in rules:
        if not holds:
            raise UserError(f"{option} {value}: {rule}")
    return config
