"""How walks are guided, as it is asked for: how, how strongly, and whether the model can be guided so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from ddpm.classes import places
from ddpm.classifier import Classifier
from ddpm.errors import UserError
from ddpm.guidance import ByClassifier, ClassifierFree
from ddpm.store import Description


@dataclass(frozen=True, eq=False)
class NoisyClassifier:
    """A trained classifier of noisy pictures: what `ddpm.load_classifier` returns."""

    model: Classifier
    description: Description
    name: str
    checkpoint: str = ""
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes it tells apart."""
        return self.description.facts.classes


@dataclass(frozen=True, eq=False)
class Guide:
    """How a walk is guided; the defaults are not at all.

    cfg_scale: of classifier-free guidance; 1 is the conditional model itself. cfg_interval: the levels t of the
    model that it guides, both included; None for all. classifier: of noisy pictures, whose score counts
    classifier_scale times; 0 is without it.
    """

    cfg_scale: float = 1.0
    cfg_interval: tuple[int, int] | None = None
    classifier: NoisyClassifier | None = None
    classifier_scale: float = 1.0

    def __post_init__(self) -> None:
        for option, scale in (("--cfg-scale", self.cfg_scale), ("--classifier-scale", self.classifier_scale)):
            if not 0.0 <= scale < float("inf"):
                raise UserError(f"{option} {scale:g}: is 0 or more")

    @property
    def by_classifier(self) -> NoisyClassifier | None:
        """The classifier, if it counts."""
        return self.classifier if self.classifier_scale else None

    def about(self) -> dict[str, Any]:
        """What a record says of it; nothing where nothing is guided."""
        made: dict[str, Any] = {}
        if self.cfg_scale != 1.0:
            made["cfg_scale"] = self.cfg_scale
            if self.cfg_interval:
                made["cfg_interval"] = list(self.cfg_interval)
        if (classifier := self.by_classifier) is not None:
            made |= {
                "classifier": classifier.name,
                "classifier_checkpoint": classifier.checkpoint,
                "classifier_scale": self.classifier_scale,
            }
        return made

    def guidance(
        self, name: str, of: Description, size: tuple[int, int], T: int
    ) -> ClassifierFree | ByClassifier | None:
        """The guidance of a model `name` of T levels for pictures of a size; None for none.

        UserError where the model or the classifier does not allow it.
        """
        free = self._free(name, of, T)
        classifier = self.by_classifier
        if classifier is None:
            return free
        data = classifier.description.config.data
        if data.size != size or data.channels != of.config.data.channels:
            raise UserError(
                f"--classifier {classifier.name}: knows pictures of {data.size[0]} x {data.size[1]} with "
                f"{data.channels} channels, and {name} draws {size[0]} x {size[1]} with "
                f"{of.config.data.channels}; train one with ddpm train DATA --task classifier "
                f"--size {size[0]}x{size[1]}"
            )
        classes = of.facts.classes
        numbers = _numbers(classes, classifier, name)
        if numbers is not None:
            numbers = numbers.to(next(classifier.model.parameters()).device)
        return ByClassifier(classifier.model, self.classifier_scale, free, numbers, bool(classes))

    def _free(self, name: str, of: Description, T: int) -> ClassifierFree | None:
        if self.cfg_interval is not None:
            low, high = self.cfg_interval
            if not 1 <= low <= high <= T:
                raise UserError(f"--cfg-interval {low} {high}: takes two levels, from 1 to {T}, the smaller first")
        if self.cfg_scale == 1.0:
            return None
        if not of.facts.classes:
            raise UserError(f"--cfg-scale {self.cfg_scale:g}: {name} was trained without classes; leave it out")
        if not of.config.train.label_drop:
            raise UserError(
                f"--cfg-scale {self.cfg_scale:g}: {name} was trained with a label on every picture and cannot "
                f"draw without; teach it with ddpm train DATA --init-from MODEL --label-drop 0.1"
            )
        return ClassifierFree(self.cfg_scale, self.cfg_interval)


def _numbers(classes: tuple[str, ...], classifier: NoisyClassifier, name: str) -> Int64[Tensor, "K"] | None:
    """The classifier's number of each class of a model; None where they are the same."""
    known = classifier.classes
    numbers = [number for number in places(classes, known) if number is not None]
    if len(numbers) < len(classes):
        missing = next(one for one in classes if one not in known)
        listed = ", ".join(known[:20]) + (f" and {len(known) - 20:,} more" if len(known) > 20 else "")
        raise UserError(
            f"--classifier {classifier.name}: does not know the class {missing} of {name}; it knows {listed}"
        )
    return None if numbers == list(range(len(classes))) else torch.tensor(numbers)


UNGUIDED = Guide()
