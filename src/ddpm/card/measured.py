"""What is known to have been measured of a model: the results in its run's evaluation/ and log.jsonl.

Results of other checkpoints, with another variance than the model's, and of kinds that are not known here are left
out, and told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ddpm.data.hub import PREFIX, address
from ddpm.errors import UserError
from ddpm.reading import read_json
from ddpm.store import Description, Run
from ddpm.units import counted

_GRIDS = (10, 20, 50)  # numbers of steps whose fitted grids are worth a line


@dataclass(frozen=True)
class Result:
    """One number.

    kind: as the hub calls it, or would; name: for people, with the unit. error: standard error. pictures: how many
    it is over. reference: their name; data_set: the hub's id, else the name without spaces. how: in words.
    """

    kind: str
    name: str
    value: float
    error: float | None
    pictures: int | None
    reference: str
    data_set: str
    how: str


def of_run(run: Path | None, checkpoint: str, of: Description) -> tuple[list[Result], list[str]]:
    """The results of a checkpoint in its run, and lines about those left out.

    Of a setting measured over several numbers of pictures the most count. UserError names a damaged result.
    """
    if run is None:
        return [], []
    newest: dict[tuple[Path, str, str], tuple[int, Path, dict[str, Any]]] = {}
    own = of.config.denoiser.variance
    others = varied = 0
    for path, values in _records(run / "evaluation"):
        if values.get("checkpoint") != checkpoint:
            others += 1
            continue
        if values.get("variance", own) != own:
            varied += 1
            continue
        n, reference = int(values.get("pictures", 0)), values.get("reference", {})
        against = str(reference.get("fingerprint", "")) if isinstance(reference, dict) else ""
        key = path.parent, str(values["metric"]), against
        if key not in newest or newest[key][0] < n:
            newest[key] = n, path, values
    found, left_out = _accuracy(run, of), []

    def order(entry: tuple[int, Path, dict[str, Any]]) -> tuple[bool, int, str]:
        """Bounds first, those of the most levels before others."""
        _, path, values = entry
        levels = values.get("levels", 0)
        return values["metric"] != "nll", -levels if isinstance(levels, int) else 0, str(path)

    for _, path, values in sorted(newest.values(), key=order):
        read = _READERS.get(str(values["metric"]))
        if read is None:
            left_out.append(f"Measured too, and not told here: {path.parent.name}/{path.name}.")
            continue
        try:
            found += read(values)
        except (KeyError, TypeError, ValueError, IndexError):
            raise UserError(f"{path}: damaged, it lacks what a result has; remove it, or measure again") from None
    if others:
        left_out.append(f"Left out: {counted(others, 'result')} of other checkpoints of the run.")
    if varied:
        left_out.append(
            f"Left out: {counted(varied, 'result')} with another variance of the steps than the model's."
        )
    return found, left_out


def _records(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The results there are, in the order of their names."""
    for path in sorted(folder.glob("*/*.json")):
        values = read_json(path)
        if isinstance(values, dict) and "metric" in values and "results" in values:
            yield path, values


def _result(values: dict[str, Any], kind: str, name: str, value: float, error: float | None, how: str) -> Result:
    reference = values["reference"]
    known = address(reference["data"]) if reference["data"].startswith(PREFIX) else None
    data_set = known.id if known else re.sub(r"[^\w.-]+", "-", reference["name"])
    weights = {"ema": "averaged weights", "model": "weights as they are"}.get(values["weights"], "")
    drawn = ", ".join(filter(None, (how, weights, f"seed {values['seed']}")))
    spread = None if error is None else float(error)
    return Result(kind, name, float(value), spread, int(values["pictures"]), reference["name"], data_set, drawn)


def _nll(values: dict[str, Any]) -> list[Result]:
    total = values["results"]["bits_per_dim"]
    return [_result(values, "bits_per_dim", "bits/dim", total["mean"], total["standard_error"], values["what"])]


def _ode(values: dict[str, Any]) -> list[Result]:
    total = values["results"]["bits_per_dim"]
    name = "bits/dim by the probability-flow ODE"
    return [_result(values, "bits_per_dim", name, total["mean"], total["standard_error"], values["what"])]


def _rate(values: dict[str, Any]) -> list[Result]:
    curve, how = values["results"], f"{values['what']}, up to x_1"
    errors = [None if curve[name] is None else curve[name][-1] for name in ("rate_se", "rmse_se")]
    return [
        _result(values, "rate", "rate, bits/dim", curve["rate"][-1], errors[0], how),
        _result(values, "rmse", "distortion, RMSE of 0–255", curve["rmse"][-1], errors[1], how),
    ]


def _grid(values: dict[str, Any]) -> list[Result]:
    made = []
    for grid in values["results"]["grids"]:
        if (steps := len(grid["levels"])) in _GRIDS:
            how = f"bound of the {steps} levels fitted to these pictures; {grid['even']:.4g} of {steps} even ones"
            name = f"bits/dim of {steps} fitted steps"
            made.append(_result(values, "bits_per_dim", name, grid["bits"], None, how))
    return made


def _fidelity(values: dict[str, Any]) -> list[Result]:
    """How near drawn pictures are to others: named FID only in features of Inception."""
    net, n = values["features"]["name"], int(values["pictures"])
    how = f"{counted(n, 'sample')} of {values['sampler']}, {counted(int(values['steps']), 'step')}"
    how += f", grid {values['grid']}" + (
        f", guided {values['cfg_scale']:g} times" if "cfg_scale" in values else ""
    )
    how += f", guided by {values['classifier']}" if "classifier" in values else ""
    how += f"; against all {values['reference']['pictures']:,}"
    made = []
    for metric, found in values["results"].items():
        kind, name = metric, _METRICS.get(metric, metric)
        if net != "inception":
            kind, name = f"{metric}-other-features", f"{_OTHERWISE.get(metric, name)} in features of {net}"
        doubt = "; too few for it" if metric in values["caveats"] else ""
        of = _result(values, kind, name, found["value"], None, how + doubt)
        spread = found.get("deviation")
        made.append(of if spread is None else replace(of, how=f"{of.how}; ± {spread:.2g} over subsets of them"))
    return made


_METRICS = {"fid": "FID", "sfid": "sFID", "kid": "KID", "is": "Inception Score"}
_OTHERWISE = {"fid": "Fréchet distance", "sfid": "spatial Fréchet distance", "kid": "kernel distance"}
_READERS: dict[str, Callable[[dict[str, Any]], list[Result]]] = {
    "nll": _nll,
    "ode": _ode,
    "rate": _rate,
    "grid": _grid,
    "fidelity": _fidelity,
}


def _accuracy(run: Path, of: Description) -> list[Result]:
    """A classifier's accuracy on held-out pictures, as its training logged it at the step or last before it."""
    lines = [line for line in Run(run).records() if "held_out_accuracy" in line and line["step"] <= of.step]
    if not lines or of.config.train.task != "classifier":
        return []
    line = lines[-1]
    quarters = " / ".join("–" if one is None else f"{one:.0%}" for one in line.get("held_out_quarters", ()))
    how = f"noisy pictures at levels spread over the chain, step {line['step']:,}"
    how += f"; by quarter of the chain, clean to noisy: {quarters}" if quarters else ""
    name = f"held out of {of.facts.name}"
    slug = re.sub(r"[^\w.-]+", "-", of.facts.name) or "held-out"
    return [Result("accuracy", "accuracy", float(line["held_out_accuracy"]), None, None, name, slug, how)]
