"""How near a set of pictures is to another in features: both sides collected, and the scores between them.

    net = open_features("random")
    reference = reference_features(pictures, net)             kept in ddpm's cache
    samples = sample_features(model.sample(1000).pixels, net)
    print(fid(samples, reference), scores(("kid", "precision"), samples, reference))

Pictures are uint8 pixels on both sides. Moments are of all pictures; KID, precision and recall are of at most
10,000 of each side, evenly spread, since they compare pictures pair by pair.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, UInt8

from ddpm.atomic import write_bytes
from ddpm.data import Pictures, default_cache
from ddpm.errors import UserError
from ddpm.evaluate.features import FeatureNet, Features
from ddpm.evaluate.scores import Mean, Moments, frechet, inception_score, kid, precision_recall
from ddpm.units import counted

METRICS = ("fid", "sfid", "kid", "is", "precision", "recall")
KEPT = 10_000
"""Pictures of a side that are compared pair by pair."""
MOST = 8192
"""Features a picture, whose covariance is 0.5 GB."""
ENOUGH = {"fid": 10_000, "sfid": 10_000, "kid": 1000, "is": 10_000, "precision": 1000, "recall": 1000}
"""Pictures below which a score is told with a caveat."""
LEAST = {"fid": 2, "sfid": 2, "kid": 2, "is": 10, "precision": 4, "recall": 4}
"""Pictures below which there is no score: a covariance, a pair, a picture for each of 10 splits, 3 neighbours."""
FORMAT = 1
"""Goes up whenever the same pictures would give other features or moments."""
_AT_ONCE, _PENDING, _LOOKED_AT = 256, 1024, 16
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)

Progress = Callable[[int, int], None]


@final
@dataclass(frozen=True, eq=False)
class Collected:
    """What is kept of n pictures. pooled: of at most 10,000 evenly spread, number k n // n' for k = 0 … n' − 1.

    spatial: None where the net gives none, or more than `MOST` a picture. logits: of all; None where the net gives
    none, and of a reference, where nothing asks for them.
    """

    n: int
    pooled: Float32[np.ndarray, "kept F"]
    moments: Moments
    spatial: Moments | None = None
    logits: Float32[np.ndarray, "n K"] | None = None


@final
class Gathering:
    """Features of n pictures that come in any order, each once: memory for the kept ones and two covariances."""

    def __init__(self, n: int, logits: bool = True) -> None:
        """logits: whether those of all pictures are kept. UserError for fewer than two pictures."""
        if n < 2:
            raise UserError(f"{counted(n, 'picture')} to score: take at least 2")
        self._n, self._kept = n, spread(n, min(n, KEPT))
        self._pooled, self._spatial = _Sums(), _Sums()
        self._rows: np.ndarray | None = None
        self._logits: np.ndarray | None = None
        self._with_logits = logits

    def add(self, places: Int64[np.ndarray, "B"], features: Features) -> None:
        """Features of the pictures at these places in 0 … n − 1. UserError for more features than `MOST`."""
        pooled = features.pooled.numpy()
        if pooled.shape[1] > MOST:
            raise UserError(
                f"the feature net gives {pooled.shape[1]:,} features a picture, and a covariance is taken of at "
                f"most {MOST:,}; average them over the picture"
            )
        if self._rows is None:
            self._rows = np.empty((len(self._kept), pooled.shape[1]), np.float32)
        at = np.searchsorted(self._kept, places)
        mine = self._kept[np.minimum(at, len(self._kept) - 1)] == places
        self._rows[at[mine]] = pooled[mine]
        self._pooled.add(pooled)
        if features.spatial is not None and features.spatial.shape[1] <= MOST:
            self._spatial.add(features.spatial.numpy())
        if features.logits is not None and self._with_logits:
            logits = features.logits.numpy()
            if self._logits is None:
                self._logits = np.empty((self._n, logits.shape[1]), np.float32)
            self._logits[places] = logits

    def collected(self) -> Collected:
        """All of it, once every picture was added."""
        moments = self._pooled.moments()
        assert self._rows is not None and moments is not None and moments.n == self._n
        return Collected(self._n, self._rows, moments, self._spatial.moments(), self._logits)


def spread(n: int, count: int) -> Int64[np.ndarray, "count"]:
    """`count` of n numbers, evenly spread: ⌊k n/count⌋."""
    return np.arange(count, dtype=np.int64) * n // count


def sample_features(
    pixels: UInt8[np.ndarray, "N C H W"], net: FeatureNet, progress: Progress | None = None
) -> Collected:
    """What is kept of pictures; progress is called with (pictures done, pictures in all)."""
    gathering = Gathering(len(pixels))
    for first in range(0, len(pixels), _AT_ONCE):
        piece = pixels[first : first + _AT_ONCE]
        gathering.add(np.arange(first, first + len(piece)), net(np.ascontiguousarray(piece)))
        if progress:
            progress(first + len(piece), len(pixels))
    return gathering.collected()


def reference_features(
    pictures: Pictures,
    net: FeatureNet,
    progress: Progress | None = None,
    cache: bool | Path = True,
    most: int | None = None,
) -> Collected:
    """What is kept of a set, or of `most` of its pictures, evenly spread; windows cut from the centre, no logits.

    cache: whether it is looked up in ddpm's cache, and left there; or the folder of another cache. A damaged file
    counts as none. progress: as of `sample_features`; not called for what is looked up.
    """
    n, at = min(len(pictures), most or len(pictures)), None
    which = spread(len(pictures), n)
    if cache:
        home = default_cache() if cache is True else Path(cache)
        at = home / "features" / f"{_key(pictures, net, n)[:32]}.npz"
        if (found := _read(at, n)) is not None:
            return found
    gathering = Gathering(n, logits=False)
    for first in range(0, n, _AT_ONCE):
        numbers = np.arange(first, min(n, first + _AT_ONCE))
        gathering.add(numbers, net(pictures.rows(which[numbers], None)[0]))
        if progress:
            progress(int(numbers[-1]) + 1, n)
    made = gathering.collected()
    if at is not None:
        with suppress(OSError):  # a cache that cannot be written costs time, nothing else
            _write(at, made)
    return made


def fid(samples: Collected, reference: Collected) -> float:
    """Fréchet distance of pooled features; the FID where the net is Inception."""
    return frechet(samples.moments, reference.moments)


def scores(
    metrics: Sequence[str], samples: Collected, reference: Collected, seed: int = 0
) -> dict[str, float | Mean]:
    """Each metric's value; of KID with a deviation over subsets, of IS over splits. seed: of what is drawn.

    UserError where the net gives nothing to take it of, or pictures are too few.
    """
    made: dict[str, float | Mean] = {}
    check_counts(metrics, samples.n, reference.n)
    if "fid" in metrics:
        made["fid"] = fid(samples, reference)
    if "sfid" in metrics:
        if samples.spatial is None or reference.spatial is None:
            raise UserError("sfid: the feature net gives no spatial features")
        made["sfid"] = frechet(samples.spatial, reference.spatial)
    if "kid" in metrics:
        made["kid"] = kid(samples.pooled, reference.pooled, seed)
    if "is" in metrics:
        if samples.logits is None:
            raise UserError("is: the feature net gives no logits")
        made["is"] = inception_score(samples.logits, seed)
    if {"precision", "recall"} & set(metrics):
        precision, recall = precision_recall(reference.pooled, samples.pooled)
        made |= {"precision": precision} if "precision" in metrics else {}
        made |= {"recall": recall} if "recall" in metrics else {}
    return {name: made[name] for name in metrics}


def check_net(metrics: Sequence[str], net: FeatureNet, features: Features) -> None:
    """UserError for a metric that needs what a net, of which these are features, does not give."""
    spatial, logits = features.spatial, features.logits
    others = "inception does, and so may a net of your own (.pt2) that gives (features, spatial, logits)"
    if "sfid" in metrics and spatial is None:
        raise UserError(f"--metrics sfid: {net.name} gives no spatial features; random and {others}")
    if "sfid" in metrics and spatial is not None and spatial.shape[1] > MOST:
        raise UserError(
            f"--metrics sfid: {net.name} gives {spatial.shape[1]:,} spatial features, and a covariance is of "
            f"at most {MOST:,}; let it give a few channels of them, as the 7 of Inception's"
        )
    if "is" in metrics and logits is None:
        raise UserError(f"--metrics is: {net.name} gives no logits; {others}")


def check_counts(metrics: Sequence[str], samples: int, reference: int | None = None) -> None:
    """UserError for a metric that so few pictures have none of; an Inception Score has no reference."""
    for name in metrics:
        if samples < LEAST[name]:
            raise UserError(f"{counted(samples, 'picture')} to score: {name} takes at least {LEAST[name]}")
        if reference is not None and reference < LEAST[name] and name != "is":
            raise UserError(
                f"{counted(reference, 'picture')} to score against: {name} takes at least {LEAST[name]}"
            )


def caveats(metrics: Sequence[str], samples: Collected, reference: Collected) -> dict[str, str]:
    """Of each metric that so few pictures do not settle, why, in a sentence; nothing of the others."""
    n, made = min(samples.n, reference.n), {}
    for name in metrics:
        few = f"of {n:,} pictures"
        moments = samples.spatial if name == "sfid" else samples.moments
        features = 0 if moments is None else len(moments.mean)
        if name in ("fid", "sfid") and n <= features:
            made[name] = (
                f"{few} in {features:,} features comes out far too large: a covariance takes many more pictures "
                "than it has features; compare it at the same n alone, or take kid"
            )
        elif name in ("fid", "sfid") and n < ENOUGH[name]:
            made[name] = (
                f"{few} comes out too large, the more so the fewer they are; compare it at the same n alone, or "
                "take kid, which has no such bias"
            )
        elif name == "is" and samples.n < ENOUGH[name]:
            made[name] = f"of {samples.n:,} pictures comes out too small; published ones are of 50,000"
        elif name == "kid" and n < ENOUGH[name]:
            made[name] = f"{few} is right in the mean but scatters, more than its ± over subsets of them says"
        elif name in ("precision", "recall") and n < ENOUGH[name]:
            made[name] = f"{few} is rough: neighbours lie far apart and cover much; compare it at the same n alone"
    return made


# -- the cache ----------------------------------------------------------------------------------------------


def _key(pictures: Pictures, net: FeatureNet, n: int) -> str:
    """64 hex digits; of some pixels too, as the fingerprint of a stream is of names and sizes."""
    looked_at = pictures.rows(spread(len(pictures), min(len(pictures), _LOOKED_AT)), None)[0]
    pixels = hashlib.sha256(np.ascontiguousarray(looked_at).data).hexdigest()
    parts = [FORMAT, KEPT, MOST, pictures.fingerprint, n, pixels, net.key]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _write(path: Path, made: Collected) -> None:
    arrays = {"pooled": made.pooled, "mean": made.moments.mean, "cov": made.moments.cov}
    if made.spatial is not None:
        arrays |= {"spatial_mean": made.spatial.mean, "spatial_cov": made.spatial.cov}
    data = io.BytesIO()
    np.savez(data, **arrays)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, data.getvalue())


def _read(path: Path, n: int) -> Collected | None:
    """What `_write` left of n pictures; None where it is not there, or not whole."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}  # which compares the checksums
        spatial = None
        if "spatial_mean" in arrays:
            spatial = Moments(n, arrays["spatial_mean"], arrays["spatial_cov"])
        return Collected(n, arrays["pooled"], Moments(n, arrays["mean"], arrays["cov"]), spatial)
    except _DAMAGED:
        return None


# -- moments, piece by piece --------------------------------------------------------------------------------


@final
class _Sums:
    """Σ (x − a) and Σ (x − a)(x − a)ᵀ in float64, about the first pictures' mean a, so that little cancels."""

    def __init__(self) -> None:
        self._pending: list[Float[np.ndarray, "B F"]] = []
        self._n = 0
        self._about: Float64[np.ndarray, "F"] | None = None
        self._sum: np.ndarray = np.zeros(0)
        self._outer: np.ndarray = np.zeros((0, 0))

    def add(self, x: Float32[np.ndarray, "B F"]) -> None:
        """A few rows; many are multiplied at once."""
        self._pending.append(x)
        if sum(map(len, self._pending)) >= _PENDING:
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        x = np.concatenate(self._pending).astype(np.float64)
        self._pending = []
        if self._about is None:
            self._about = x.mean(0)
            self._sum, self._outer = np.zeros(x.shape[1]), np.zeros((x.shape[1], x.shape[1]))
        x -= self._about
        self._n += len(x)
        self._sum += x.sum(0)
        self._outer += x.T @ x

    def moments(self) -> Moments | None:
        """Of all that was added; None of nothing."""
        self._flush()
        if self._about is None:
            return None
        off = self._sum / self._n
        cov = (self._outer - self._n * np.outer(off, off)) / (self._n - 1)
        return Moments(self._n, self._about + off, cov)
