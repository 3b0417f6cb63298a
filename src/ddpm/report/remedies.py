"""What helps against the signs of trouble: a rule a kind, silent where there is no sign."""

from __future__ import annotations

import shlex

from ddpm.report.shown import WORTH_LOOKING, Advice, Shown, again
from ddpm.report.trouble import Kind


def copies(shown: Shown) -> Advice | None:
    if not (why := told(shown, "copies")):
        return None
    return Advice(
        "Keep it from copying pictures",
        f"{why} Train for fewer steps, with more pictures, mirrored ones where they may be, or with dropout.",
        again(shown, f"--steps {shown.config.train.steps} --net.dropout 0.2", "dropout"),
    )


def quarters(shown: Shown) -> Advice | None:
    if not (why := told(shown, "by heart")) or told(shown, "copies"):
        return None
    return Advice(
        "Stop earlier, or regularise",
        f"{why} Dropout, more pictures, or fewer steps keep it from that.",
        again(shown, f"--steps {shown.config.train.steps} --net.dropout 0.2", "dropout"),
    )


def risen(shown: Shown) -> Advice | None:
    if not (why := told(shown, "risen")):
        return None
    lr = shown.config.optimizer.lr / 2
    return Advice(
        "Lower the learning rate",
        f"{why} Steps that are too large unlearn what smaller ones would keep.",
        again(shown, f"--steps {shown.config.train.steps} --lr {lr:.1e}", "lower-rate"),
    )


def colours(shown: Shown) -> Advice | None:
    """Colours drift where the net errs under much noise, which every sample passes through."""
    config, why = shown.config, told(shown, "colour", "spread")
    if not why:
        return None
    if shown.step * config.train.batch < WORTH_LOOKING:
        return Advice("Train for longer", f"{why} Colours settle late, and it has seen few pictures so far.")
    what, change = (
        ["a longer training", f"an average over more steps (--optimizer.ema, now {config.optimizer.ema:.4g})"],
        "",
    )
    if config.denoiser.predicts in ("eps", "mean"):
        # Of x_0 an error of ε̂ is magnified by σ/α: by a hundred and more at the noisy end.
        change = "--denoiser.predicts v"
        what.insert(
            0, f"predicting v ({change}), as small errors in ε are large ones in the picture under much noise"
        )
    elif not config.denoiser.clip:
        change = "--denoiser.clip"
        what.insert(0, f"clipping the estimated picture ({change})")
    elif told(shown, "spread") and config.chain.schedule != "cosine":
        change = "--chain.schedule cosine"
        what.insert(0, f"a schedule that ends in noise alone ({change})")
    first = (
        "First see whether it is the sampler, by drawing with more steps: ddpm sample "
        f"{shlex.quote(shown.folder)} --steps 100. If not, what helps is "
    )
    change = change or f"--optimizer.ema {1 - (1 - config.optimizer.ema) / 4:.6g}"
    return Advice(
        "Mend the colours" if config.data.channels > 1 else "Mend the brightness",
        f"{why} {first}{'; or '.join(what)}.",
        again(shown, f"--steps {config.train.steps} {change}", "colours"),
    )


def told(shown: Shown, *kinds: Kind) -> str:
    """The sentences of the signs of these kinds."""
    return " ".join(sign.what for sign in shown.signs if sign.kind in kinds)
