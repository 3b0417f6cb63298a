"""A corpus of hostile models and configs, made anew wherever it is needed: what a stranger may have sent.

    for case in cases(folder): ...             every named case
    for case in mutated(folder, 0, 1000): ...  whole models of each format, damaged at random by a seed

A case is refused, by one line that holds what it `says`; "any" is damage that may by luck have hit nothing.
"""

from __future__ import annotations

import json
import resource
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from hostile_models_case import Case, Family
from hostile_models_damage import mutated
from hostile_models_ours import descriptions, our_files, places, runs
from hostile_models_pickles import pickles
from hostile_models_programs import programs
from hostile_models_small import configs, grids
from hostile_models_theirs import diffusers, openai_files, tensorflow

FAMILIES: tuple[Family, ...] = (
    our_files,
    descriptions,
    runs,
    places,
    pickles,
    openai_files,
    diffusers,
    tensorflow,
    programs,
    configs,
    grids,
)


def cases(folder: Path) -> Iterator[Case]:
    """All of them, a family a folder."""
    for family in FAMILIES:
        place = folder / family.__name__
        place.mkdir(parents=True)
        yield from family(place)


def tried(case: Case) -> tuple[str, str]:
    """What comes of it: ("opened", ""), ("refused", the message) or ("trace", the stack trace)."""
    import ddpm
    from ddpm.commands.configfile import read_config
    from ddpm.errors import UserError
    from ddpm.evaluate.features import open_features
    from ddpm.grids import read_grids
    from ddpm.tuned import read_tuned

    try:
        if case.what == "model":
            ddpm.load(case.path, "cpu")
        elif case.what == "features":
            open_features(str(case.path), "cpu")
        elif case.what == "config":
            read_config(case.path)
        elif case.what == "grids":
            if read_grids(case.path).T != 40:
                raise UserError("for a model of other levels")
        else:
            read_tuned(case.path, 40)
    except UserError as error:
        return "refused", str(error)
    except Exception:
        return "trace", traceback.format_exc()
    return "opened", ""


def limited(room: int) -> None:
    """From here on this process may take so many bytes more, and no others."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + room, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main(folder: str, first: str, count: str, room: str) -> None:
    """Tries damaged models; writes a line for each: [name, outcome, text, bytes more than at the beginning]."""

    limited(int(room))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in mutated(Path(folder), int(first), int(count)):
        outcome, text = tried(case)
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        print(json.dumps([case.name, outcome, text, grown]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
