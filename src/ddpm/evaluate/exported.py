"""Programs of torch.export (.pt2), read so that nothing in the file runs but tensor operations.

torch.export.load is not fit for files of others: it falls back to unpickling (samples of inputs, constants),
evaluates expressions of sizes as Python, looks operators up by any dotted name in torch (`torch.os.system` is one)
and makes source code of names. So the archive is read here first, and written anew from what is harmless:

    tensors                   raw, or pickles that weights_only=True can read
    operators                 torch.ops.aten and prims; arithmetic of sizes
    expressions of sizes      sympy's own constructors, numbers and symbols
    names                     letters, digits, _ and dots
    traces, guards, extras    left out

Anything else (compiled code, custom objects, TorchScript, pickles of nets) is refused.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import io
import json
import logging
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export.passes import move_to_device_pass

from ddpm.convert.pickles import plain
from ddpm.errors import UserError
from ddpm.reading import check_file, parse_json

_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims?)\.([a-z]\w*|_[a-z]\w*|__i?(and|or|xor|lshift|rshift)__)\.[A-Za-z]\w*"
    r"|torch\.ops\.higher_order\.wrap_with_(set_grad_enabled|autocast)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|pow|neg|pos|and_|or_|not_|eq|ne|lt|le|gt|ge)"
    r"|math\.(ceil|floor|trunc|sqrt)|torch\.(_?sym_\w+)"
)
_WORD = re.compile(r"[\w.+ \-]*")
_SYMPY = re.compile(
    r"Symbol|Integer|Float|Rational|Add|Mul|Pow|Mod|Max|Min|Equality|Unequality|StrictLessThan|LessThan"
    r"|StrictGreaterThan|GreaterThan|And|Or|Not|Tuple|FloorDiv|ModularIndexing|Where|PythonMod|CleanDiv|CeilToInt"
    r"|FloorToInt|TruncToInt|ToFloat|IntTrueDiv|FloatTrueDiv|PowByNatural|FloatPow|RoundToInt"
)
_SYMPY_NODES = (ast.Expression, ast.Call, ast.Name, ast.Load, ast.keyword, ast.Constant, ast.UnaryOp, ast.USub)
_TEXT = re.compile(r"[A-Za-z_]\w{0,50}|[+-]?\d{0,50}(\.\d{0,50})?([eE][+-]?\d{1,3})?")  # a name, or a number
_TENSOR = re.compile(r"data/(weights/weight|constants/tensor)_\d+")
_PLAIN = re.compile(r"archive_format|archive_version|version|byteorder|\.data/\w+|\.format/\w+")
_LEFT_OUT = re.compile(r"extra/.*|extra_files/.*")
_JSON = 1 << 26  # bytes of a program's JSON at the most
_EXPRESSION, _POWER = 10_000, 64  # characters of an expression of sizes, and powers in it, at the most
_MEND = "save it with torch.export.save(torch.export.export(net, ...), FILE) from plain torch operations"


def read_program(path: Path, device: torch.device) -> tuple[Callable[[Tensor], Any], str]:
    """The program of a file, on the device, and the file's SHA-256 in 64 hex digits. UserError for all else."""
    check_file(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read: {error.strerror or error}; give a program of torch.export"
        ) from None
    if data.startswith(b"version https://git-lfs"):
        raise UserError(f"{path}: a Git LFS pointer, not the program itself; fetch it with git lfs pull")
    cleaned = _cleaned(path, data)
    try:
        with _quiet():
            program = torch.export.load(cleaned)
            if device.type != "cpu":
                program = move_to_device_pass(program, device)
            # What guards say is said by the sizes' own check too; they would be run as source code.
            known = inspect.signature(program.module).parameters
            net: Any = program.module(check_guards=False) if "check_guards" in known else program.module()
    except Exception as error:  # a damaged file, or one of another torch
        raise UserError(
            f"{path}: damaged, or of a torch that this one ({torch.__version__}) cannot read; export it with this"
        ) from error
    return net, hashlib.sha256(data).hexdigest()


def _cleaned(path: Path, data: bytes) -> io.BytesIO:
    """The archive with what may be in it."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if min((entry.header_offset for entry in archive.infolist()), default=0) > 0:
                raise zipfile.BadZipFile("what was found is an archive inside of one that is cut short")
            if not plain(archive.infolist(), len(data)):
                raise UserError(f"{path}: its records are compressed, or overlap; {_MEND}")
            entries = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OSError, zlib.error):
        raise UserError(f"{path}: {_what(data)}; a feature net is a program of torch.export: {_MEND}") from None
    if any(name.endswith("/constants.pkl") for name in entries):
        raise UserError(f"{path}: a TorchScript program, which holds code; {_MEND}")
    if any(name.endswith("/data.pkl") for name in entries):
        raise UserError(f"{path}: a file of torch.save, which holds weights but no net; {_MEND}")
    root = _root(list(entries))
    out = io.BytesIO()
    programs = 0
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            inner = name.removeprefix(root)
            if _LEFT_OUT.fullmatch(inner):
                continue
            if inner.endswith(".json"):
                if len(content) > _JSON:
                    raise UserError(f"{path}: {name} has over {_JSON >> 20} MB, which no program has; {_MEND}")
                values = parse_json(content, f"{path}: {name}")
                programs += isinstance(values, dict) and "graph_module" in values
                try:
                    content = json.dumps(_vetted(path, values)).encode()
                except RecursionError:
                    raise UserError(f"{path}: {name} is nested too deeply; {_MEND}") from None
                _vet_payloads(path, values, entries, root, inner)
            elif inner.endswith(".pt"):
                _vet_pickle(path, name, content)
            elif not (_TENSOR.fullmatch(inner) or (_PLAIN.fullmatch(inner) and len(content) < 100)):
                raise UserError(f"{path}: not read, since it holds {name}, which may be code; {_MEND}")
            archive.writestr(name, content)
    if programs != 1:
        raise UserError(f"{path}: holds {programs or 'no'} programs of torch.export, not one; {_MEND}")
    out.seek(0)
    return out


def _root(names: list[str]) -> str:
    """The folder that all of a newer archive is in."""
    first = {name.partition("/")[0] for name in names}
    return f"{first.pop()}/" if len(first) == 1 and all("/" in name for name in names) else ""


def _vet_payloads(path: Path, values: Any, entries: dict[str, bytes], root: str, config: str) -> None:
    """Of a list of tensors, those that are kept as pickles."""
    listed = values.get("config") if isinstance(values, dict) else None
    if not isinstance(listed, dict):
        return
    folder = config.rpartition("/")[0]
    for payload in listed.values():
        if not isinstance(payload, dict):
            raise UserError(f"{path}: {config} is damaged; fetch the file again")
        inner = f"{folder}/{payload.get('path_name')}"
        if not _TENSOR.fullmatch(inner):
            raise UserError(f"{path}: not read, since it holds {inner}, an object that is no tensor; {_MEND}")
        if payload.get("use_pickle"):
            _vet_pickle(path, root + inner, entries.get(root + inner, b""))


def _vet_pickle(path: Path, name: str, content: bytes) -> None:
    if not content:
        return
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if not plain(archive.infolist(), len(content)):
                raise zipfile.BadZipFile("its records are compressed, or overlap")
        with _quiet():
            torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # whatever a damaged or hostile pickle can bring about
        raise UserError(
            f"{path}: not read, since {name} in it is a pickle of more than tensors, or damaged; {_MEND}"
        ) from None


def _vetted(path: Path, values: Any, key: str = "") -> Any:
    """Plain values whose strings are harmless, without what only explains the program; UserError for others."""
    if isinstance(values, dict):
        made: dict[str, Any] = {}
        for name, value in values.items():
            if not _WORD.fullmatch(name):
                raise UserError(f"{path}: not read: {name[:60]!r} is no name; {_MEND}")
            if name == "metadata":
                made[name] = {}
            elif name == "guards_code":
                made[name] = []
            else:
                made[name] = _vetted(path, value, name)
        return made
    if isinstance(values, list):
        return [_vetted(path, value, key) for value in values]
    if isinstance(values, str) and not _harmless(key, values):
        raise UserError(f"{path}: not read: its {key or 'text'} {values[:60]!r} is none that may be run; {_MEND}")
    return values


def _harmless(key: str, text: str) -> bool:
    if key in ("target", "as_operator"):
        return _OPERATOR.fullmatch(text) is not None
    if key == "expr_str":
        return _arithmetic(text)
    if key in ("in_spec", "out_spec"):  # trees of results, as JSON
        return "__enum__" not in text and "default_factory" not in text and "\\u" not in text
    return key == "as_string" or _WORD.fullmatch(text) is not None


def _arithmetic(text: str) -> bool:
    """Whether an expression of sizes is nothing but sympy's own, which sympy evaluates as Python.

    Powers are small and not of powers: 9 to the 9 to the 9th has 370 million digits.
    """
    if len(text) > _EXPRESSION:
        return False
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(_plain_node(node) for node in nodes) and all(_small_power(node) for node in nodes)


def _small_power(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return abs(node.value) < 2**64
    if not isinstance(node, ast.Call) or not _is_power(node):
        return True
    if len(node.args) != 2 or any(_is_power(inner) for one in node.args for inner in ast.walk(one)):
        return False
    power = [one.value for one in ast.walk(node.args[1]) if isinstance(one, ast.Constant)]
    return bool(power) and all(isinstance(one, (int, float)) and abs(one) <= _POWER for one in power)


def _is_power(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and "Pow" in node.func.id


def _plain_node(node: ast.AST) -> bool:
    if not isinstance(node, _SYMPY_NODES):
        return False
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and _SYMPY.fullmatch(node.func.id) is not None
    if isinstance(node, ast.Name):
        return _SYMPY.fullmatch(node.id) is not None or re.fullmatch(r"[suz]f?\d+|true|false", node.id) is not None
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _TEXT.fullmatch(node.value) is not None
    return True


def _what(data: bytes) -> str:
    if not data:
        return "is empty"
    if data[:2] == b"PK":
        return "is cut short or damaged"
    if data[:1] == b"\x80":
        return "a pickle, which would run code on loading"
    return "no program of torch.export"


@contextmanager
def _quiet() -> Iterator[None]:
    """torch warns, and logs with a stack trace, what is said here in one line."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
