"""A run on disk: described by itself, written whole or not at all, checked when read.

    runs/flowers/
      config.json                  what the run is: config, data, versions, the plan's reasons
      log.jsonl                    a line a logged step
      checkpoints/000010000/       model, ema, optimizer (and times) .safetensors, state.json with their checksums
      samples/000010000.png        preview grids
      .lock                        held by the training that writes here

Every weights file carries the description in its header, so it can be moved and loaded alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from ddpm.atomic import new_folder, remove_folder, sweep, write_bytes, write_json
from ddpm.config import Config, from_json, to_json
from ddpm.errors import UserError, printable
from ddpm.limits import check_limits, check_numbers
from ddpm.reading import check_file, parse_json, read_json
from ddpm.version import __version__

FORMAT = "ddpm/1"
_HEADER = 1 << 24  # bytes of a header at the most
_LOCKS = (".lock", ".owner")  # held while a training writes; who that is


@dataclass(frozen=True)
class Facts:
    """What a run knows of its data beyond the config: enough to sample without it."""

    name: str = ""
    count: int = 0
    classes: tuple[str, ...] = ()
    frequencies: tuple[float, ...] = ()
    fingerprint: str = ""
    skipped: int = 0
    held_out: str = ""


@dataclass(frozen=True)
class Description:
    """What a model is; stands in config.json and in the header of every weights file."""

    config: Config
    facts: Facts
    step: int = 0
    plan: tuple[str, ...] = ()
    command: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain values, with the format's name and the versions of what wrote it."""
        return {
            "format": FORMAT,
            "step": self.step,
            "config": to_json(self.config),
            "data": to_json(self.facts),
            "plan": list(self.plan),
            "command": self.command,
            "versions": {"ddpm": __version__, "torch": torch.__version__, "python": platform.python_version()},
        }

    @classmethod
    def from_json(cls, values: Any, where: str) -> Description:
        """The description again; UserError says what in `where` is not one."""
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise UserError(f"{where}: not written by ddpm (its format is not {FORMAT})")
        config = from_json(Config, values.get("config", {}), f"{where}: config")
        facts = read_facts(values.get("data", {}), f"{where}: data")
        step, plan, command = values.get("step", 0), values.get("plan", []), values.get("command", "")
        told = isinstance(plan, list) and all(isinstance(line, str) for line in (*plan, command))
        if not told or type(step) is not int or not 0 <= step < 2**63:
            raise UserError(f"{where}: damaged, its step or plan is of a wrong type")
        return cls(check_limits(config, where), facts, step, tuple(map(printable, plan)), printable(command))


def read_facts(values: Any, where: str) -> Facts:
    """Facts as they were written; UserError if they are none. Names come out as any terminal can show them."""
    facts = from_json(Facts, values, where)
    if min(facts.count, facts.skipped) < 0:
        raise UserError(f"{where}: damaged, it counts less than nothing")
    if facts.frequencies:
        check_numbers(facts.frequencies, f"{where}.frequencies")
        if len(facts.frequencies) != len(facts.classes) or not sum(facts.frequencies):
            raise UserError(f"{where}: damaged, its frequencies are not those of {len(facts.classes):,} classes")
    return replace(facts, name=printable(facts.name), classes=tuple(map(printable, facts.classes)))


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder that has been found whole."""

    folder: Path
    step: int
    state: dict[str, Any]

    def tensors(self, part: str) -> dict[str, Tensor]:
        """model, ema, optimizer, or times, which a time sampler that learns has."""
        return load_weights(self.folder / f"{part}.safetensors")[0]


class Run:
    """A run's folder."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._lock: FileLock | None = None
        self._unlogged: list[str] = []

    @classmethod
    def create(cls, folder: str | Path, description: Description) -> Run:
        """A new run; UserError if there is one already."""
        run = cls(folder)
        run.begin(description)
        return run

    def begin(self, description: Description) -> None:
        """Makes it a run; UserError if there is one already."""
        self.check_free()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self.folder / "config.json", description.to_json())
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written ({error.strerror}); choose another --out") from None

    def check_free(self) -> None:
        """UserError if no new run can be made here."""
        if self.exists():
            raise UserError(
                f"{self.folder}: holds a run already; continue it with --resume, or choose another --out"
            )
        if self.folder.is_dir() and not all(_left_behind(path.name) for path in self.folder.iterdir()):
            raise UserError(f"{self.folder}: is not empty and holds no run; choose another --out")
        above = next(folder for folder in (self.folder, *self.folder.absolute().parents) if folder.exists())
        if not above.is_dir() or not os.access(above, os.W_OK):
            why = "not yours to write" if above.is_dir() else "a file"
            raise UserError(f"{self.folder}: cannot be written ({above} is {why}); choose another --out")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Inside, no other training writes into the folder; UserError where one does. It may be entered again.

        The system frees the lock of a process that is killed.
        """
        who = self.folder / _LOCKS[1]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = self._lock or FileLock(self.folder / _LOCKS[0], thread_local=False)
            self._lock.acquire(timeout=0)
            if self._lock.lock_counter == 1:
                write_bytes(who, f"process {os.getpid()} on {socket.gethostname()}".encode())
        except Timeout:
            with suppress(OSError):
                raise UserError(
                    f"{self.folder}: another training writes here ({who.read_text()}); wait for it, stop it, or "
                    "choose another --out"
                ) from None
            raise UserError(f"{self.folder}: another training writes here; choose another --out") from None
        except NotImplementedError:  # a disk without locks
            self._lock = None
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written ({error.strerror}); choose another --out") from None
        lock = self._lock
        try:
            yield
        finally:
            if lock is not None:
                if lock.lock_counter == 1:
                    with suppress(OSError):
                        who.unlink(missing_ok=True)
                lock.release()

    def exists(self) -> bool:
        """Whether there is a run in the folder."""
        return (self.folder / "config.json").is_file() or bool(self._folders())

    def description(self) -> Description:
        """What the run is; where config.json is damaged, as the newest whole checkpoint describes it."""
        path = self.folder / "config.json"
        if not self.exists():
            raise UserError(f"{self.folder}: holds no run (there is no config.json in it)")
        try:
            return Description.from_json(read_json(path), str(path))
        except UserError:
            checkpoint, _ = self.newest()
            if checkpoint is None:
                raise
            return load_weights(checkpoint.folder / "ema.safetensors")[1]

    # -- checkpoints ---------------------------------------------------------------------------------------

    def save(
        self,
        description: Description,
        parts: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        keep: int,
        best: int | None = None,
        every: int = 0,
    ) -> Path:
        """Writes a checkpoint and thins the older ones; returns its folder.

        Kept are the newest `keep`, that of step `best`, and those of every `every` steps (0: none). A kill at any
        moment leaves each checkpoint whole or gone.
        """
        target = self.checkpoint(description.step)
        with new_folder(target) as folder:
            checksums = {}
            for part, tensors in parts.items():
                name = f"{part}.safetensors"
                checksums[name] = save_weights(folder / name, tensors, description)
            whole = {"step": description.step, **state, "sha256": checksums}
            write_json(folder / "state.json", {**whole, "checksum": _checksum(whole)})
        for old in self._folders()[:-keep]:
            step = int(old.name)
            if step != best and not (every and step % every == 0):
                remove_folder(old)
        return target

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self.folder / "checkpoints" / f"{step:09d}"

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest whole checkpoint, and a line for each newer one that is damaged."""
        damaged: list[str] = []
        for folder in reversed(self._folders()):
            try:
                return open_checkpoint(folder), damaged
            except UserError as error:
                damaged.append(str(error))
        return None, damaged

    def _folders(self) -> list[Path]:
        root = self.folder / "checkpoints"
        return sorted(p for p in root.iterdir() if p.is_dir() and p.name.isdigit()) if root.is_dir() else []

    # -- log -----------------------------------------------------------------------------------------------

    def log(self, record: Mapping[str, Any]) -> None:
        """Appends a line to log.jsonl; where the disk is full it is kept, and written with the next."""
        self._unlogged.append(json.dumps(record) + "\n")
        self.catch_up()

    def catch_up(self) -> None:
        """Writes the lines that a full disk kept out of log.jsonl, if it takes them now."""
        if not self._unlogged:
            return
        path = self.folder / "log.jsonl"
        try:
            with path.open("ab", buffering=0) as file:
                end = file.tell()
                data = "".join(self._unlogged).encode()
                if file.write(data) != len(data):  # the disk took a part of it
                    file.truncate(end)
                    return
        except OSError:
            return
        self._unlogged.clear()

    def records(self) -> list[dict[str, Any]]:
        """The log's lines; one that was cut off by a kill is left out."""
        return list(self.each_record())

    def each_record(self) -> Iterator[dict[str, Any]]:
        """The same one by one, so that a long run's log does not fill memory."""
        path = self.folder / "log.jsonl"
        if not path.is_file():
            return
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                with suppress(ValueError):
                    record = json.loads(line)
                    if isinstance(record, dict):
                        yield record

    def rewind(self, step: int) -> None:
        """Takes back all that came after a step that training goes on from, and what killed saves left."""
        self._unlogged.clear()
        for folder in (self.folder, self.folder / "checkpoints", self.folder / "samples"):
            sweep(folder)
        for folder in self._folders():  # a damaged one would otherwise count as one of the newest
            if int(folder.name) > step:
                remove_folder(folder)
        kept = [json.dumps(r) + "\n" for r in self.each_record() if r.get("step", 0) <= step]
        write_bytes(self.folder / "log.jsonl", "".join(kept).encode())
        for picture in (self.folder / "samples").glob("*.png"):
            if picture.stem.isdigit() and int(picture.stem) > step:
                picture.unlink()


def _left_behind(name: str) -> bool:
    """Whether a file is the lock, or what a process that was killed before it began a run left half-made."""
    return name in _LOCKS or (name.startswith(".") and name.endswith(".tmp"))


def open_checkpoint(folder: Path) -> Checkpoint:
    """A checkpoint folder whose files all match their checksums; UserError names the file that does not."""
    state = read_json(folder / "state.json")
    try:
        checksums, step = dict(state["sha256"]), int(state["step"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"{folder / 'state.json'}: damaged, it lacks the step or the checksums") from None
    if state.pop("checksum", None) not in (None, _checksum(state)):  # older ones have none
        raise UserError(f"{folder / 'state.json'}: damaged, its checksum is another")
    for name, expected in checksums.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing from its checkpoint")
        if sha256(path) != expected:
            raise UserError(f"{path}: damaged, its checksum is not the one in state.json")
    return Checkpoint(folder, step, state)


def _checksum(state: Mapping[str, Any]) -> str:
    """Of what else stands in state.json."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


# -- single files --------------------------------------------------------------------------------------------


def save_weights(path: Path, tensors: Mapping[str, Tensor], description: Description) -> str:
    """Writes tensors with the description in the file's header; returns its SHA-256."""
    plain = {key: value.detach().to("cpu").contiguous() for key, value in tensors.items()}
    data = to_safetensors(plain, metadata={"ddpm": json.dumps(description.to_json())})
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def load_weights(path: Path) -> tuple[dict[str, Tensor], Description]:
    """The tensors of a file and its description; UserError if it is damaged or not ours."""
    with open_weights(path) as file:
        header = (file.metadata() or {}).get("ddpm")
        if header is None:
            raise UserError(f"{path}: a safetensors file that says nothing of its model; ddpm wrote none such")
        description = Description.from_json(parse_json(header, str(path)), str(path))
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return tensors, description


@contextmanager
def open_weights(path: Path) -> Iterator[Any]:
    """A safetensors file, opened; UserError if it is none, then or while it is read."""
    size = check_file(path)
    with path.open("rb") as plain:
        length = int.from_bytes(plain.read(8), "little")
    if not 2 <= length <= min(size - 8, _HEADER):
        raise UserError(
            f"{path}: damaged or not a safetensors file (of its {size:,} bytes {length:,} would be the header); "
            "fetch or write it again"
        )
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(f"{path}: damaged or not a safetensors file ({error}); fetch or write it again") from None


def sha256(path: Path) -> str:
    """The file's checksum; UserError if it cannot be read."""
    check_file(path)
    with path.open("rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)
        )


def _sha256(file: Any) -> str:  # Python 3.10
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
