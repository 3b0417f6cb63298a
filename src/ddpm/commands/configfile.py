"""`--config FILE`: part of a config, or another run's, as YAML or JSON.

    data: {size: 64, crop: pad}
    net: {channels: 96}
    optimizer: {lr: 1e-4}

YAML's scalars are read by the core schema of version 1.2, in which 1e-4 is a number and `precision: no` is a word.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from ddpm.commands.options import parse_size
from ddpm.config import Config, from_json, to_json
from ddpm.errors import UserError, short
from ddpm.reading import JSON, read_file

_LARGEST, _DEEPEST = 1 << 20, 20  # bytes of YAML, and tables within tables
_SECTIONS = {section.name: section for section in dataclasses.fields(Config)}
_FIELDS = {
    f"{section}.{item.name}" for section in _SECTIONS for item in dataclasses.fields(getattr(Config(), section))
}


def read_config(path: Path) -> dict[str, Any]:
    """What a file asks for: values by dotted name. UserError names file, key or line, and the mend."""
    values = _parse(path)
    if not isinstance(values, dict):
        held = "nothing" if values is None else short(values)
        raise UserError(f"{path}: holds {held}; it is a table of sections, as net: {{channels: 64}}")
    form = values.get("format")
    if isinstance(form, str) and form.startswith("ddpm/"):  # a run's config.json
        values = values.get("config")
        if not isinstance(values, dict):
            raise UserError(f"{path}: damaged, a run's config.json holds a config")
    given: dict[str, Any] = {}
    for section, part in values.items():
        if section not in _SECTIONS:
            raise UserError(f"{path}: {section}: no such section" + _nearest(str(section)))
        if part is None:  # `net:` with nothing under it
            continue
        if not isinstance(part, dict):
            raise UserError(f"{path}: {section}: holds {short(part)}; it is a table of settings")
        if section == "data" and (type(part.get("size")) is int or isinstance(part.get("size"), str)):
            part = {**part, "size": parse_size(str(part["size"]), f"{path}: data.size")}
        read = from_json(type(getattr(Config(), section)), part, f"{path}: {section}")
        given |= {f"{section}.{key}": getattr(read, key) for key in part}
    return given


def write_yaml(config: Config) -> str:
    """A config in a form that `read_config` reads back; DATA is left to be given."""
    lines = []
    for section, part in to_json(config).items():
        lines.append(f"{section}:")
        # JSON is YAML, and it quotes what would otherwise be read as something else.
        lines += [
            f"  {key}: {json.dumps(value)}" for key, value in part.items() if (section, key) != ("data", "path")
        ]
    return "\n".join(lines) + "\n"


def _parse(path: Path) -> Any:
    try:
        text = read_file(path, JSON if path.suffix.lower() == ".json" else _LARGEST).decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not text in UTF-8; give YAML or JSON") from None
    except UserError as error:
        raise UserError(f"--config {error}") from None
    try:
        if path.suffix.lower() == ".json":
            return json.loads(text, object_pairs_hook=_without_repeats)
        _check_events(text)
        return yaml.load(text, _Core)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not YAML ({error.problem or error.context})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    except _RepeatedError as error:
        raise UserError(f"{path}: {error} stands in one table twice; leave one of them") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{path}: holds what no config does ({error}); leave it out") from None
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply; a config is a table of sections") from None


def _check_events(text: str) -> None:
    """Refuses, before anything is made of the text, what makes little of it large: aliases and depth."""
    depth = 0
    for event in yaml.parse(text, _Core):
        why = None
        if isinstance(event, yaml.AliasEvent):
            why = f"*{event.anchor} repeats what stands elsewhere, which no config may; write it out"
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            why = "nested too deeply; a config is a table of sections"
        if why:
            raise yaml.MarkedYAMLError(problem=why, problem_mark=event.start_mark)  # type: ignore[arg-type]


class _RepeatedError(Exception):
    """A key for the second time."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise _RepeatedError(key)
        values[key] = value
    return values


class _Core(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2's core schema; numbers may be grouped as 800_000."""


_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
)
_Core.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _SCALARS:
    _Core.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _first)


def _table(loader: _Core, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: set[Hashable] = set()
    for key, _ in node.value:
        name = loader.construct_object(key)
        if not isinstance(name, str):
            raise yaml.MarkedYAMLError(problem=f"{name!r} is no name", problem_mark=key.start_mark)
        if name in seen:
            raise yaml.MarkedYAMLError(problem=f"{name} stands in one table twice", problem_mark=key.start_mark)
        seen.add(name)
    return loader.construct_mapping(node, deep=True)


_Core.add_constructor("tag:yaml.org,2002:map", _table)


def _nearest(name: str) -> str:
    """Did you mean: a section, or the field of that name in its section."""
    last = name.rpartition(".")[2]
    items = {field.partition(".")[2] for field in _FIELDS}
    near = difflib.get_close_matches(name, _SECTIONS, n=1)
    if near and last not in items:
        return f"; did you mean {near[0]}?"
    close = difflib.get_close_matches(last, items, n=1)
    fields = sorted(field for field in _FIELDS if close and field.partition(".")[2] == close[0])
    if fields:
        told = " or ".join(f"{one.partition('.')[0]}: {{{one.partition('.')[2]}: ...}}" for one in fields)
        return f"; did you mean {told}?"
    return f"; there are {', '.join(_SECTIONS)}"
