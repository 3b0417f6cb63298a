"""The card's front matter: what the hub sorts models by.

https://huggingface.co/docs/hub/model-cards and its metadata: license, library_name, pipeline_tag, tags, datasets,
metrics, and model-index with the numbers themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from ddpm.card.measured import Result
from ddpm.data.hub import PREFIX, address
from ddpm.guide import NoisyClassifier
from ddpm.pipeline import Pipeline

_TASKS = {
    "image": "unconditional-image-generation",
    "upsampler": "image-to-image",
    "classifier": "image-classification",
}
# The hub's names; what is not among them goes by "other" and its own name.
# fmt: off
_LICENCES = {
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0",
    "mpl-2.0", "artistic-2.0", "unlicense", "wtfpl", "isc", "zlib", "bsl-1.0", "ecl-2.0", "epl-2.0",
    "etalab-2.0", "eupl-1.2", "ms-pl", "openrail", "openrail++", "creativeml-openrail-m",
    "bigscience-openrail-m", "bigscience-bloom-rail-1.0", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-3.0",
    "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
    "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0",
    "cc-by-nc-sa-4.0", "cdla-permissive-2.0", "odc-by", "odbl", "pddl", "unknown", "other",
}
# fmt: on


def front_matter(
    model: Pipeline | NoisyClassifier, to: str, licence: str | None, results: Sequence[Result]
) -> str:
    """What the hub sorts models by."""
    task = task_of(model)
    tags = [_TASKS[task], "ddpm", "diffusion"]
    tags += {"image": [], "upsampler": ["super-resolution"], "classifier": ["classifier-guidance"]}[task]
    if task != "classifier" and model.classes:
        tags.append("class-conditional")
    values: dict[str, Any] = {
        **_licence_fields(licence),
        "library_name": "diffusers" if to == "diffusers" else "ddpm",
        "pipeline_tag": _TASKS[task],
        "tags": tags,
    }
    found = (address(path) for path in model.description.config.data.path if path.startswith(PREFIX))
    if sets := list(dict.fromkeys(one.id for one in found if one)):
        values["datasets"] = sets
    if results:
        values["metrics"] = list(dict.fromkeys(result.kind for result in results))
        values["model-index"] = [{"name": model.name, "results": _index(results, _TASKS[task])}]
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---"


def _index(results: Sequence[Result], task: str) -> list[dict[str, Any]]:
    """What was measured, a part for each set of pictures; how it was done is in the metric's name."""
    made = []
    for data_set, name in dict.fromkeys((result.data_set, result.reference) for result in results):
        metrics = [
            {"type": one.kind, "value": one.value, "name": f"{one.name} ({one.how})"}
            for one in results
            if (one.data_set, one.reference) == (data_set, name)
        ]
        made.append({"task": {"type": task}, "dataset": {"type": data_set, "name": name}, "metrics": metrics})
    return made


def _licence_fields(licence: str | None) -> dict[str, str]:
    if licence is None:
        return {"license": "unknown"}
    known = licence.lower()
    return {"license": known} if known in _LICENCES else {"license": "other", "license_name": licence}


def task_of(model: Pipeline | NoisyClassifier) -> str:
    """image, upsampler or classifier."""
    return model.description.config.train.task
