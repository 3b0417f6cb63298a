"""The options of guidance, as the commands that draw pictures share them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from ddpm.commands.options import console, unset
from ddpm.errors import UserError

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from ddpm.guide import Guide


@dataclass(frozen=True)
class GuideOptions:
    """Guidance towards a class."""

    cfg_scale: Annotated[float, unset("S", "1, off", name="cfg-scale")] = 1.0
    """Classifier-free guidance, of a model trained with --label-drop."""
    cfg_interval: Annotated[tuple[int, int] | None, unset("T T", "all", name="cfg-interval")] = None
    """Levels of noise it acts at, the lower first."""
    classifier: Annotated[str | None, unset("RUN", "none")] = None
    """Classifier guidance: a run of ddpm train DATA --task classifier."""
    classifier_scale: Annotated[float | None, unset("S", "1 with a classifier", name="classifier-scale")] = None
    """How much the classifier's score counts; 0 is off."""


def guide_of(options: GuideOptions, device: str | torch.device | None, out: Console | None = None) -> Guide:
    """What was asked for, the classifier loaded onto the device; out: where its notes are printed."""
    from ddpm.guide import Guide
    from ddpm.loading import load_classifier

    scale = options.classifier_scale
    if options.classifier is None and scale:
        raise UserError(f"--classifier-scale {scale:g}: say which classifier, with --classifier RUN")
    if options.cfg_interval and options.cfg_scale == 1.0:
        raise UserError("--cfg-interval: belongs to --cfg-scale, which is off")
    classifier = None
    if options.classifier is not None and scale != 0.0:
        classifier = load_classifier(options.classifier, device)
        for note in classifier.notes:
            (out or console()).print(f"note: {note}")
    return Guide(options.cfg_scale, options.cfg_interval, classifier, 1.0 if scale is None else scale)
