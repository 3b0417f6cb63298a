"""What a training takes of this machine: counted where it can be, measured where it must be.

Counted on the meta device, where nothing is computed: parameters, what a picture leaves in memory for the way
back, its multiplications. Measured: seconds a step, and memory at its peak.
"""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ddpm.build import build_net
from ddpm.config import Config
from ddpm.data import Pictures
from ddpm.nets import Encoder, UNet
from ddpm.trainer import Trainer

MEASURED_SECONDS = 6.0
_MEASURED_SHARE = 0.02  # of a training with a fixed number of steps
_MEASURED_FLOPS = 2e12  # a step on a CPU that would take more is measured on fewer pictures
_FEW_STEPS = 5
STATE_BYTES = 20
"""A parameter takes: weight, gradient, average and two of Adam's moments, 4 bytes each."""
SAVED_BYTES = 16
"""A parameter takes in a checkpoint: all but the gradient."""
# Peak over what is kept for the way back: 1.2 to 2.0 times measured on a CPU, 2.7 with checkpointed activations.
_PEAK, _PEAK_CHECKPOINTED, _BESIDE = 1.5, 3.0, 1 << 26


@dataclass(frozen=True)
class Load:
    """Of a config's net: parameters; a picture's activations in bytes, and its operations on the way forward."""

    parameters: int
    activations: int
    flops: int

    def peak(self, config: Config, pictures: int) -> int:
        """Bytes that training takes with so many pictures computed at once; an estimate from above."""
        factor = _PEAK_CHECKPOINTED if config.train.checkpoint_activations else _PEAK
        return int(STATE_BYTES * self.parameters + factor * self.activations * pictures + _BESIDE)


def count(config: Config, classes: int) -> Load:
    """Counts on the meta device, from one and from two pictures."""
    with torch.device("meta"):
        net = build_net(config, classes)
    net.checkpoint_activations = config.train.checkpoint_activations
    net.checkpoint_levels = config.train.checkpoint_levels
    (one, flops), (two, _) = (_kept(net, config, classes, pictures) for pictures in (1, 2))
    return Load(sum(p.numel() for p in net.parameters()), two - one, flops)


def inputs(config: Config, classes: int, pictures: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """x[B,C,H,W], timestep[B] and what else the net of a config takes, on the meta device."""
    with torch.device("meta"):
        x, t = torch.empty(pictures, config.data.channels, *config.data.size), torch.empty(pictures)
        cond = {}
        if classes and config.train.task != "classifier":
            cond["label"] = torch.empty(pictures, dtype=torch.int64)
        if config.train.task == "upsampler":
            cond["low"] = torch.empty(pictures, config.data.channels, *config.data.small)
    return x, t, cond


def _kept(net: UNet | Encoder, config: Config, classes: int, pictures: int) -> tuple[int, int]:
    """Bytes of the tensors that a forward pass keeps besides the weights, and its operations."""
    weights = {p.untyped_storage()._cdata for p in net.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata  # by storage: many views of one are kept once
        if storage not in weights:
            kept[storage] = tensor
        return tensor

    x, t, cond = inputs(config, classes, pictures)
    counter = FlopCounterMode(display=False)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), counter:
        net(x, t, **cond)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()), counter.get_total_flops()


@dataclass(frozen=True)
class Measured:
    """A step's seconds, and bytes at the peak where they can be read and the step was a whole one."""

    seconds: float
    memory: int | None


def measure(
    config: Config,
    load: Load,
    pictures: Pictures,
    accelerator: Accelerator,
    steps: int | None,
    processes: int = 1,
) -> Measured:
    """Real steps of a trainer that is thrown away after it; for steps in all, of a length in proportion.

    On a CPU a long step is measured on fewer pictures, and its time scaled up. Of several processes, which all
    measure at once, each takes its share of a batch.
    """
    train, share = config.train, -(-config.train.batch // processes)
    batch = share
    if accelerator.device.type == "cpu":
        batch = min(batch, max(1, int(_MEASURED_FLOPS / (3 * max(1, load.flops)))))
    rows = -(-share // train.accumulate)
    part = config.with_(
        train__batch=batch, train__accumulate=-(-batch // rows), train__init_from="", train__shard=False
    )
    before = _reset_peak(accelerator.device)
    scaler = accelerator.scaler  # of half precision: shared with the training to come, which starts with it afresh
    fresh = None if scaler is None else scaler.state_dict()
    trainer = Trainer(part, pictures, accelerator)
    try:
        seconds = seconds_a_step(trainer, steps) * share / batch
    finally:
        if scaler is not None:
            scaler.load_state_dict(fresh)
    peak = _peak(accelerator.device)
    del trainer
    accelerator.free_memory()  # it keeps what it prepared
    if accelerator.device.type == "cuda":
        torch.cuda.empty_cache()
    whole = batch >= rows and before is not None
    return Measured(seconds, peak if whole else None)


def seconds_a_step(trainer: Trainer, steps: int | None = None, longest: float = MEASURED_SECONDS) -> float:
    """The median of `longest` seconds of steps, the first two left out; of less, where `steps` are all there are.

    A net on a CPU whose steps are long is measured by fewer, down to one.
    """
    times: list[float] = []
    start = time.perf_counter()
    # What a GPU or a compiler does at the first steps it never does again.
    least = 1 if trainer.accelerator.device.type == "cpu" and not trainer.config.train.compile else 3
    while len(times) < 200:
        clock = time.perf_counter()
        trainer.step(len(times)).gradient.item()
        now = time.perf_counter()
        times.append(now - clock)
        enough = longest if steps is None else min(longest, _MEASURED_SHARE * steps * times[-1])
        spent = now - start
        if (len(times) >= _FEW_STEPS and spent >= enough) or (len(times) >= least and spent >= 2 * longest):
            break
    kept = sorted(times[2:] if len(times) >= _FEW_STEPS else times[-1:])
    return kept[len(kept) // 2]


# -- memory and disk -------------------------------------------------------------------------------------------

_GROUPS = Path("/sys/fs/cgroup")
_CONTAINER = (  # limit, use, and what of the use is only a cache of files: versions 2 and 1
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process can still take, on the GPU or in the machine; None where nobody says."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
    says = [_field("/proc/meminfo", "MemAvailable:"), *(_container(*files) for files in _CONTAINER)]
    known = [one for one in says if one is not None]
    return max(0, min(known)) if known else None


def _container(limit: str, used: str, parts: str) -> int | None:
    """Bytes left of a container's limit; None without one."""
    try:
        left = int((_GROUPS / limit).read_text()) - int((_GROUPS / used).read_text())
        for line in (_GROUPS / parts).read_text().splitlines():
            if line.startswith(("inactive_file ", "total_inactive_file ")):
                return left + int(line.split()[1])
    except (OSError, ValueError):  # no such file, or "max"
        return None
    return left


def _reset_peak(device: torch.device) -> int | None:
    """Begins to watch for the peak; bytes taken now, None where it cannot be watched."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    if device.type != "cpu":
        return None
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: VmHWM starts anew
    except OSError:
        return None
    return _field("/proc/self/status", "VmRSS:")


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return _field("/proc/self/status", "VmHWM:") if device.type == "cpu" else None


def taken_memory(device: torch.device) -> int:
    """Bytes this process holds already of what a training's peak is measured in."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return _field("/proc/self/status", "VmRSS:") or 0


def _field(path: str, name: str) -> int | None:
    """Bytes of a line such as "VmHWM:  812345 kB" of a file of Linux's; None where there is none."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return None


def free_disk(folder: Path) -> int | None:
    """Bytes free where a folder is or will be; None where nothing can be stored at all."""
    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    usage = shutil.disk_usage(place)
    return usage.free if usage.total else None
