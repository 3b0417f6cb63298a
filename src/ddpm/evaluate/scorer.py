"""Scores while training: the Fréchet distance of a few samples from the pictures that are trained on.

    scorer = Scorer(pictures, n=500, features="random", device)
    scorer.score(pipeline)

The same pictures' numbers of the same seed are drawn each time, by the default method, with classes as frequent as
in the data: so scores differ by the net alone. Of few pictures a distance comes out too large, by about as much.
"""

from __future__ import annotations

from typing import final

import torch

from ddpm.config import TrainConfig
from ddpm.data import Pictures
from ddpm.errors import UserError
from ddpm.evaluate.features import open_features
from ddpm.evaluate.fidelity import Collected, Progress, fid, reference_features, sample_features
from ddpm.pipeline import Pipeline

SEED = 0
REFERENCE = 10_000
"""Pictures that samples are compared with, evenly spread over those trained on."""


@final
class Scorer:
    """Draws and compares; the features of the pictures are taken once, and kept in ddpm's cache."""

    def __init__(self, pictures: Pictures, n: int, features: str, device: torch.device):
        """UserError where there is no such feature net."""
        self.pictures, self.n = pictures, n
        self.net = open_features(features, device)
        self._reference: Collected | None = None

    def score(self, pipeline: Pipeline) -> float:
        """Of what the model draws now; UserError where the net does not take such pictures."""
        reference = self.prepare()
        return fid(sample_features(pipeline.sample(self.n, seed=SEED).pixels, self.net), reference)

    def prepare(self, progress: Progress | None = None) -> Collected:
        """The features of the pictures; progress: as of `reference_features`."""
        if self._reference is None:
            self._reference = reference_features(self.pictures, self.net, progress, most=REFERENCE)
        return self._reference


def scorer_of(config: TrainConfig, pictures: Pictures, device: torch.device) -> Scorer | None:
    """What a training is to be scored by, if it is."""
    if not config.evaluate_every:
        return None
    try:
        return Scorer(pictures, config.evaluate_samples, config.evaluate_features, device)
    except UserError as error:
        raise UserError(str(error).replace("--features", "--train.evaluate-features")) from None
