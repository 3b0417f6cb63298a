"""What computes the net while pictures are drawn: torch as it is, a compiled program, or ONNX Runtime.

    torch     operation by operation
    compile   a program for this machine's processor, with the weights frozen into it (torch.export and inductor),
              wide convolutions by Winograd's algorithm; on a GPU torch.compile with CUDA graphs
    onnx      the exported graph in ONNX Runtime (the extra `onnx`)

A program is made for a number of pictures of one size. Fewer are filled up, so that the last batch of a walk makes
no new one; more are computed a few at a time, where that is faster. Programs are kept under the cache's folder by
what they are of (weights, shapes, versions, processor), 4 GB of them at the most: those go that were not used for
longest. They give what torch gives within 1e-4, which is checked. Where gradients of the net are wanted, as by a
likelihood, torch computes it as it is.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from ddpm.data.cache import default_cache
from ddpm.errors import UserError
from ddpm.nets.blocks import freeze_winograd

ENGINES = ("torch", "compile", "onnx")
Program = Callable[..., Tensor]
Tell = Callable[[str], object]
_TIMED = 2  # evaluations of each that are timed
# What a compiled program computes at once on a CPU, counted behind the first convolution: of more, what lies
# between two of its loops has left the cache.
_NUMBERS_AT_ONCE = 1 << 19
_MOST_KEPT = 4 * 10**9  # bytes of programs
_LOADING = 3600.0  # seconds after its last use in which a program is not removed: somebody may be about to load it
_KIND = 2  # goes up whenever the same net would be made into another program


def check_engine(name: str) -> None:
    """UserError for an engine that there is none of, or whose packages are missing."""
    if name not in ENGINES:
        raise UserError(f"--engine {name}: takes torch, compile or onnx")
    if name == "onnx":
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"--engine onnx: needs {error.name}, which is not installed; pip install 'ddpm[onnx]'"
            ) from None


@final
class Programmed(nn.Module):
    """A net (x [B, C, H, W], timestep [B], **cond) as the plain one, computed by an engine's programs.

    `tell` is told what a program cost and when it pays off, measured on the first pictures.
    """

    def __init__(self, net: nn.Module, engine: str, tell: Tell):
        super().__init__()
        self.net, self.engine, self.tell = net, engine, tell
        self.stride = getattr(net, "stride", 1)
        self._programs: dict[tuple[Any, ...], tuple[int, Program]] = {}

    def forward(self, x: Tensor, timestep: Tensor, **cond: Tensor) -> Tensor:
        if torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self.net.parameters())):
            plain: Tensor = self.net(x, timestep, **cond)
            return plain
        given = (x.contiguous(), timestep, *cond.values())
        kind, size = (tuple(x.shape[1:]), x.dtype, tuple(cond)), self._at_once(x)
        batch, program = self._programs.get(kind, (0, None))
        if program is None or size > batch:
            batch, program = size, self._made(given, size, tuple(cond))
            self._programs[kind] = (batch, program)
        return _in_parts(program, batch, given)

    def _at_once(self, x: Tensor) -> int:
        """Pictures of a program for x: all, or of parts that are as even as can be."""
        most = len(x)
        if self.engine == "compile" and x.device.type == "cpu":
            width = next((one.out_channels for one in self.net.modules() if isinstance(one, nn.Conv2d)), 1)
            most = max(1, _NUMBERS_AT_ONCE // (width * math.prod(x.shape[2:])))
        return math.ceil(len(x) / math.ceil(len(x) / most))

    def _made(self, given: Sequence[Tensor], size: int, names: Sequence[str]) -> Program:
        """The program for `size` of these pictures, from the cache if it is there; tells what came of it."""
        net = _Positional(self.net, names).eval()
        start = time.perf_counter()
        program, kept = _MAKERS[self.engine](net, [one[:size].contiguous() for one in given])
        all_of = partial(_in_parts, program, size)
        out = all_of(given)
        built = time.perf_counter() - start
        plain = net(*given)
        own, other = _seconds(lambda: all_of(given), given[0]), _seconds(lambda: net(*given), given[0])
        self.tell(_told(self.engine, kept, built, own, other, len(given[0])))
        if not torch.allclose(out, plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max())):
            off = float((out - plain).abs().max())
            raise UserError(
                f"--engine {self.engine}: its program is off by {off:.2g} where torch gives up to "
                f"{float(plain.abs().max()):.2g}; take --engine torch, and report it"
            )
        return program


def _in_parts(program: Program, batch: int, given: Sequence[Tensor]) -> Tensor:
    """What a program for `batch` pictures gives for any number."""
    parts = ([one[k : k + batch] for one in given] for k in range(0, len(given[0]), batch))
    return torch.cat([program(*(_filled(one, batch) for one in part))[: len(part[0])] for part in parts])


@final
class _Positional(nn.Module):
    """A net whose conditions come by place, as exporters want them."""

    def __init__(self, net: nn.Module, names: Sequence[str]):
        super().__init__()
        self.net, self.names = net, tuple(names)

    def forward(self, x: Tensor, timestep: Tensor, *cond: Tensor) -> Tensor:
        out: Tensor = self.net(x, timestep, **dict(zip(self.names, cond, strict=True)))
        return out


def _filled(one: Tensor, batch: int) -> Tensor:
    """As many rows as the program takes, the last one over and over."""
    return one if len(one) == batch else torch.cat([one, one[-1:].expand(batch - len(one), *one.shape[1:])])


def _seconds(do: Callable[[], Tensor], x: Tensor) -> float:
    taken = []
    for _ in range(_TIMED):
        _wait(x)
        start = time.perf_counter()
        with torch.no_grad():
            do()
        _wait(x)
        taken.append(time.perf_counter() - start)
    return min(taken)


def _wait(x: Tensor) -> None:
    if x.device.type == "cuda":
        torch.cuda.synchronize()


def _told(engine: str, kept: bool, built: float, own: float, plain: float, batch: int) -> str:
    came = f"{'taken from the cache' if kept else 'made'} in {built:.1f} s"
    speed = f"{_ms(own)} instead of {_ms(plain)} an evaluation of {batch}"
    if own >= plain:
        return f"--engine {engine}: {came}; {speed}: it does not pay off here, take --engine torch"
    return f"--engine {engine}: {came}; {speed}: pays off after {int(built / (plain - own)) + 1:,} evaluations"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f} ms" if seconds >= 0.1 else f"{seconds * 1e3:.3g} ms"


# -- making programs -------------------------------------------------------------------------------------------


def _compiled(net: _Positional, given: Sequence[Tensor]) -> tuple[Program, bool]:
    if given[0].device.type == "cuda":
        made: Any = torch.compile(net, mode="reduce-overhead", dynamic=False)
        return (lambda *given: made(*given).clone()), False  # a CUDA graph's output is overwritten by its next run

    def write(path: Path) -> None:
        frozen = copy.deepcopy(net).requires_grad_(False)
        if given[0].dtype == torch.float32:
            freeze_winograd(frozen)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(frozen, tuple(given), strict=False)
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs={"freezing": True}
            )

    with _compiler():
        path, kept = _kept("compile", ".pt2", net, given, write)
        program: Any = torch._inductor.aoti_load_package(str(path))
    return program, kept


@contextmanager
def _compiler() -> Iterator[None]:
    """A compiler that is missing, or does not compile, in a line."""
    try:
        yield
    except Exception as error:  # of a dozen kinds, in as many layers
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"--engine compile: no program could be made ({type(error).__name__}: {reason[:200]}); it takes a C++ "
            "compiler, as g++ or clang; or take --engine torch"
        ) from error


def _onnx(net: _Positional, given: Sequence[Tensor]) -> tuple[Program, bool]:
    import onnxruntime

    names = ["x", "timestep", *net.names]

    def write(path: Path) -> None:
        frozen = copy.deepcopy(net).requires_grad_(False).cpu()
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's exporter about itself
            torch.onnx.export(
                frozen, tuple(one.cpu() for one in given), str(path), input_names=names, output_names=["out"],
                dynamo=True, external_data=False, optimize=True, verbose=False,
            )  # fmt: skip

    path, kept = _kept("onnx", ".onnx", net, given, write)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    device = given[0].device
    usable = onnxruntime.get_available_providers()
    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    providers = [one for one in [*wanted, "CPUExecutionProvider"] if one in usable]
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    taken = {one.name for one in session.get_inputs()}

    def program(*given: Tensor) -> Tensor:
        feed = {name: one.cpu().numpy() for name, one in zip(names, given, strict=True) if name in taken}
        return torch.from_numpy(session.run(None, feed)[0]).to(device)

    return program, kept


_MAKERS: dict[str, Callable[[_Positional, Sequence[Tensor]], tuple[Program, bool]]] = {
    "compile": _compiled,
    "onnx": _onnx,
}


def _kept(
    engine: str, suffix: str, net: _Positional, given: Sequence[Tensor], write: Callable[[Path], None]
) -> tuple[Path, bool]:
    """Where the program is, and whether it was there; it appears whole or not at all."""
    folder = default_cache() / "programs"
    path = folder / f"{engine}-{_key(engine, net, given)}{suffix}"
    if path.exists():
        with suppress(OSError):  # a cache that is only read
            path.touch()
        return path, True
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / f"{path.stem}-{uuid.uuid4().hex[:8]}.tmp{suffix}"
    try:
        write(own)
        own.replace(path)
    finally:
        own.unlink(missing_ok=True)
    _thin(folder)
    return path, False


def _thin(folder: Path) -> None:
    """Removes the programs that were not used for longest, and what killed processes left, beyond `_MOST_KEPT`."""
    found = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process removed it
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(size for _, size, _ in found)
    for used, size, path in sorted(found):
        if total <= _MOST_KEPT or time.time() - used < _LOADING:
            return
        path.unlink(missing_ok=True)
        total -= size


def _key(engine: str, net: _Positional, given: Sequence[Tensor]) -> str:
    """What a program is of, in 24 hexadecimal digits."""
    state: Mapping[str, Tensor] = net.state_dict()
    digest = hashlib.sha256()
    for name, value in state.items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    about = {
        "engine": [engine, _KIND],
        "net": repr(net.net),  # its layers, whose numbers the weights do not tell
        "given": [(list(one.shape), str(one.dtype)) for one in given],
        "names": list(net.names),
        "versions": [version(name) for name in ("torch", *(("onnxruntime", "onnxscript") * (engine == "onnx")))],
        "processor": torch.backends.cpu.get_cpu_capability(),
    }
    digest.update(json.dumps(about).encode())
    return digest.hexdigest()[:24]
