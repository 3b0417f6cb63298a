"""fid, sfid, kid, is, precision and recall of `ddpm evaluate`: features of both sides, kept; a table, a record."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ddpm.commands.evaluate_sides import Against, Subject, Tell, sides
from ddpm.commands.options import progress
from ddpm.commands.processes import console_of, noting, together
from ddpm.errors import UserError
from ddpm.evaluate import Records
from ddpm.evaluate.features import DEFAULT, FeatureNet, Features, open_features
from ddpm.evaluate.fidelity import (
    FORMAT,
    Collected,
    Gathering,
    caveats,
    check_counts,
    check_net,
    reference_features,
    scores,
)
from ddpm.evaluate.measuring import completed
from ddpm.evaluate.scores import Mean
from ddpm.loading import pick_device
from ddpm.processes import Processes
from ddpm.reading import read_json
from ddpm.units import amount, counted
from ddpm.version import __version__

if TYPE_CHECKING:
    from ddpm.commands.evaluate import Options

_TOLD_BYTES = 100_000_000
_NAMES = {"fid": "FID", "sfid": "sFID", "kid": "KID", "is": "Inception Score"}
_PLAIN = {"fid": "Fréchet distance", "sfid": "spatial Fréchet distance", "kid": "kernel distance (KID)"}
"""Of other nets than Inception, whose numbers are no FID; as an Inception Score is only one of its logits."""


def measure_fidelity(options: Options, metrics: Sequence[str]) -> int:
    """Features of the pictures, which are drawn where none are kept, and of the reference; what they come to."""
    if options.n not in (None, "all"):
        check_counts(metrics, int(str(options.n)))
    with together(options.device) as crew:
        return _measured(options, metrics, crew)


def _measured(options: Options, metrics: Sequence[str], crew: Processes) -> int:
    out = console_of(crew)
    with crew.first():  # whose checks come before anything is spent
        net = open_features(options.features or DEFAULT, pick_device(crew.device))
        net.batch.tell = noting(crew, out)
        subject, against = sides(options, crew, noting(crew, out))
        key = {**subject.key, "features": net.key, "format": FORMAT}
        records = Records(options.out or subject.out, f"{subject.slug}-{net.name}", key)
        if against is not None:
            _begin(out, crew, metrics, subject, against, net, records)
    samples = gathered(subject, net, records, crew, out)
    crew.leave()
    if samples is not None and against is not None:
        with progress("features of the reference") as advance:
            reference = reference_features(against.pictures, net, advance)
        values = scores(metrics, samples, reference, options.seed)
        doubts = caveats(metrics, samples, reference)
        out.print(table(values, net.name))
        for line in _remarks(values, samples, reference):
            out.print(line)
        for doubt in dict.fromkeys(doubts.values()):
            names = [label(name, net.name) for name in doubts if doubts[name] == doubt]
            out.print(f"note: {' and '.join(names)} {doubt}")
        record = _record(metrics, values, doubts, subject, against, net, samples, reference)
        out.print(f"all numbers are in {_written(records, record)}")
    return 0


def _begin(
    out: Console,
    crew: Processes,
    metrics: Sequence[str],
    subject: Subject,
    against: Against,
    net: FeatureNet,
    records: Records,
) -> None:
    """What is checked and told before anything is spent; UserError for what would fail later."""
    n = len(subject.numbers)
    check_counts(metrics, n, len(against.pictures))
    probe = net(against.pictures.rows(np.array([0]), None)[0])
    check_net(metrics, net, probe)
    for note in dict.fromkeys((*subject.notes, *against.notes)):
        out.print(f"note: {note}")
    count = probe.pooled.shape[1]
    ours = f"{counted(n, 'picture')} of {subject.name}"
    if subject.words:
        ours = f"{counted(n, 'picture')} drawn by {subject.name} ({subject.words})"
    out.print(
        f"{ours} against the {len(against.pictures):,} of {against.name}, in {count:,} features of {net.name}"
    )
    there = len(records.there() & set(subject.numbers.tolist()))
    to_go = n - there
    kept = f"{counted(there, 'picture')} drawn before, {to_go:,} to go: " if there else ""
    size = sum(4 * values[0].numel() for values in probe if values is not None)
    disk = f"; their features take {amount(n * size)} in {records.folder}" if n * size > _TOLD_BYTES else ""
    if not to_go:
        out.print("the features of all of them are kept: nothing is drawn or looked at again")
    elif subject.evaluations:
        cost = counted(to_go * subject.evaluations, "evaluation")
        shared = f", in {crew.count} processes" if crew.count > 1 else ""
        out.print(f"{kept}{cost} of the model: {subject.evaluations:,} a picture{shared}{disk}")
    elif disk:
        out.print(disk.removeprefix("; "))
    records.prepare()


# -- features, kept -------------------------------------------------------------------------------------------


def gathered(
    subject: Subject, net: FeatureNet, records: Records, crew: Processes, out: Console
) -> Collected | None:
    """The features of all pictures, for the main process; each computes its share of what is missing."""

    def some(numbers: np.ndarray, tell: Tell) -> None:
        features = net(np.ascontiguousarray(subject.pixels(numbers, tell)))
        given = {name: values for name, values in features._asdict().items() if values is not None}
        records.add(numbers, {name: values.numpy() for name, values in given.items()})

    what = "evaluations" if subject.evaluations else "features"
    what += f", process 1 of {crew.count}" if crew.count > 1 else ""
    with _told(subject, records, out), progress(what) if crew.main else nullcontext() as advance:
        look = partial(_look, subject.numbers, records)
        return completed(look, some, subject.batch, max(1, subject.evaluations), advance, crew)


def _look(numbers: np.ndarray, records: Records) -> tuple[Collected | None, np.ndarray]:
    """What is kept of these pictures, or None, and the numbers of those that are missing."""
    there = records.there()
    missing = np.array([number for number in numbers.tolist() if number not in there], dtype=np.int64)
    if len(missing):
        return None, missing
    found = _collected(numbers, records)
    return (found, missing) if found else _look(numbers, records)  # a damaged part, known for one from now on


def _collected(numbers: np.ndarray, records: Records) -> Collected | None:
    """What is kept of these pictures; None where some are missing."""
    places = {number: place for place, number in enumerate(numbers.tolist())}
    gathering = Gathering(len(numbers))
    for there, arrays in records.parts():
        found = [(row, places.pop(number)) for row, number in enumerate(there.tolist()) if number in places]
        if found:
            rows, at = (np.array(column) for column in zip(*found, strict=True))
            gathering.add(
                at, Features(**{name: torch.from_numpy(values[rows]) for name, values in arrays.items()})
            )
    return None if places else gathering.collected()


@contextmanager
def _told(subject: Subject, records: Records, out: Console) -> Iterator[None]:
    """Says what is kept of what is stopped."""
    try:
        yield
    except KeyboardInterrupt:
        n, there = len(subject.numbers), len(records.there() & set(subject.numbers.tolist()))
        if there:
            out.print(
                f"{there:,} of {counted(n, 'picture')} are kept in {records.folder}; the same command goes on"
            )
        else:
            batch = min(subject.batch.rows, n)
            out.print(
                f"nothing is kept: {counted(batch, 'picture')} are kept together once all are done; --batch "
                f"{max(1, batch // 4)} keeps fewer, sooner"
            )
        raise


# -- what it comes to -----------------------------------------------------------------------------------------


def label(metric: str, net: str) -> str:
    """What a number is called: FID only where the net is Inception."""
    return (_NAMES if net == "inception" else {**_NAMES, **_PLAIN}).get(metric, metric)


def table(values: dict[str, float | Mean], net: str) -> Table:
    """A row a metric, with its standard deviation where it has one."""
    made = Table("", box=None, pad_edge=False)
    made.add_column("value", justify="right")
    made.add_column("±", justify="right")
    for name, value in values.items():
        mean, deviation = value if isinstance(value, Mean) else (value, None)
        made.add_row(label(name, net), _digits(mean, 4), "" if deviation is None else _digits(deviation, 2))
    return made


def _digits(value: float, count: int) -> str:
    """A number to so many significant digits, without an exponent where it is not needed: 1,500."""
    return f"{float(f'{value:.{count}g}'):,g}"


def _remarks(values: dict[str, float | Mean], samples: Collected, reference: Collected) -> list[str]:
    """How the numbers were taken, where it is not all pictures of both sides."""
    kept = [len(side.pooled) for side in (samples, reference)]
    lines, of = [], []
    if "kid" in values:
        of.append(f"100 subsets of {min(1000, *kept):,} for KID")
    if "is" in values:
        of.append("10 splits for the Inception Score")
    if of:
        lines.append(f"±: standard deviation over {' and '.join(of)}")
    pairwise = [name for name in ("kid", "precision", "recall") if name in values]
    if pairwise and (kept[0] < samples.n or kept[1] < reference.n):
        names = " and ".join((", ".join(pairwise[:-1]), pairwise[-1]) if len(pairwise) > 1 else pairwise)
        lines.append(f"{names}: over {kept[0]:,} and {kept[1]:,} pictures, evenly spread over the two sides")
    return lines


def _record(
    metrics: Sequence[str],
    values: dict[str, float | Mean],
    doubts: dict[str, str],
    subject: Subject,
    against: Against,
    net: FeatureNet,
    samples: Collected,
    reference: Collected,
) -> dict[str, Any]:
    """All that it takes to know what the numbers are, and to get them again."""
    pictures = against.pictures
    packages = {"ddpm": __version__, "torch": torch.__version__, "torchmetrics": version("torchmetrics")}
    if net.name == "inception":
        packages["torch-fidelity"] = version("torch-fidelity")
    means = {
        name: {"value": value.value, "deviation": value.deviation} if isinstance(value, Mean) else {"value": value}
        for name, value in values.items()
    }
    return {
        "metric": "fidelity",
        **subject.about,
        "features": {"name": net.name, "key": net.key, "count": samples.pooled.shape[1]},
        "reference": {
            "data": against.data,
            "name": against.name,
            "fingerprint": pictures.fingerprint,
            "pictures": len(pictures),
            "size": list(pictures.size),
            "channels": pictures.channels,
            "notes": list(against.notes),
        },
        "pictures": samples.n,
        "pairwise": {"samples": len(samples.pooled), "reference": len(reference.pooled), "spread": "evenly"},
        "device": str(subject.device),
        "versions": {**packages, "python": platform.python_version()},
        "caveats": doubts,
        "results": means,
    }


def _written(records: Records, record: dict[str, Any]) -> Any:
    """Writes the record, with what was taken before of the same pictures in the same features."""
    reference = record["reference"]
    name = f"fidelity-{reference['name']}-{reference['fingerprint'][:8]}-{record['pictures']}.json".replace(
        "/", "-"
    )
    path = records.path(name)
    if path.is_file():
        try:
            old = read_json(path)
            same = {one: old[one] for one in ("reference", "seed", "versions")}
        except (UserError, KeyError, TypeError):
            old, same = {}, {}
        if same == {one: record[one] for one in same} and same:
            for part in ("caveats", "results"):
                record[part] = {**old[part], **record[part]}
    return records.write_result(name, record)
