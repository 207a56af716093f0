"""Where and how to compute: the one place that chooses device, runtime, precision and batch.

On a CPU, networks run in OpenVINO where it is installed and the model can use it, else in torch; see
``docs/decisions/0037-openvino-on-the-cpu.md``.

The CUDA and MPS paths are written for GPUs and reviewed, but have not been run on one yet.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from inspection_core.errors import DeviceError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

GPU_BATCH = 16
"""Windows a batch on a GPU. Batches are padded to this, so that company never changes a result."""

GPU_RESERVE = 0.8
"""Share of a GPU's free memory that the suite plans with."""

RUNTIMES = ("torch", "openvino")
"""What runs networks."""


@dataclass(frozen=True)
class Device:
    """A device with the way it is used.

    Parameters
    ----------
    name
        torch's name: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    batch
        Windows that go through the network together, always exactly this many (padded with zeros): a fixed shape
        makes a result independent of what else is in the batch. 1 on CPUs, where batching gains nothing.
    runtime
        What runs networks there, one of `RUNTIMES`. A model that cannot use OpenVINO runs in torch all the same.
    """

    name: str
    batch: int = 1
    runtime: str = "torch"

    @property
    def torch(self) -> torch.device:
        """The device as torch knows it, and as it names a tensor's place: ``cuda`` is ``cuda:0``."""
        import torch

        device = torch.device(self.name)
        return torch.device("cuda", device.index or 0) if device.type == "cuda" else device

    def __str__(self) -> str:
        return f"{self.name} float32" + ("" if self.runtime == "torch" else f" {self.runtime}")


def choose(name: str = "auto") -> Device:
    """Return the device to use.

    Parameters
    ----------
    name
        ``"auto"`` takes CUDA, then MPS, then the CPU; anything else is a torch device name. ``"cpu/torch"`` and
        ``"cpu/openvino"`` ask for a runtime too.

    Raises
    ------
    DeviceError
        If the device or the runtime asked for is unknown or absent.
    """
    import torch

    name, slash, wanted = name.partition("/")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError:
        raise DeviceError(f'A device is "auto", "cpu", "cuda", "cuda:N" or "mps". Got {name!r}.') from None
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(kind, False):
        have = ", ".join(k for k, there in present.items() if there)
        raise DeviceError(f"The device {name!r} is not here. This machine has: {have}; choose one of them or auto.")
    if kind == "cuda":
        index = torch.device(name).index or 0
        if index >= torch.cuda.device_count():
            raise DeviceError(f"There are {torch.cuda.device_count()} CUDA devices, counted from 0. Got {name!r}.")
    if slash and (wanted not in RUNTIMES or kind != "cpu"):
        raise DeviceError(f'A runtime is asked for as "cpu/torch" or "cpu/openvino". Got "{name}/{wanted}".')
    if wanted == "openvino" and not has_openvino():
        raise DeviceError("OpenVINO is not installed here: pip install openvino, or choose cpu.")
    if kind != "cpu":
        return Device(name, batch=GPU_BATCH)
    return Device(name, runtime=wanted or ("openvino" if has_openvino() else "torch"))


def has_openvino() -> bool:
    """Tell whether OpenVINO is installed; it is not imported for that."""
    return importlib.util.find_spec("openvino") is not None


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether `error` says that memory ran out, on the device or in the process."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # torch's CPU allocator and MPS raise a plain RuntimeError, told apart by its text alone.
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def rungs(device: Device) -> Sequence[Device]:
    """Return the memory ladder: the device itself, with a batch of one, then the CPU."""
    ladder = [device]
    if device.batch > 1:
        ladder.append(replace(device, batch=1))
    if device.torch.type != "cpu":
        ladder.append(Device("cpu"))
    return ladder


def on_ladder(device: Device, work: Callable[[Device], T]) -> tuple[T, Device]:
    """Run `work` on the first rung of the memory ladder that has room; return its result and that rung.

    Raises
    ------
    DeviceError
        If memory runs out on the last rung too. Any other error of `work` passes through.
    """
    import torch

    ladder = rungs(device)
    for rung in ladder:
        try:
            return work(rung), rung
        except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
            if not is_out_of_memory(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    tried = ", ".join(f"{rung.name} with a batch of {rung.batch}" for rung in ladder)
    raise DeviceError(
        f"Memory ran out on every rung ({tried}). Close other programs, or make a model with a smaller inference size."
    )


def threads() -> int:
    """Return the number of CPU cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        return os.cpu_count() or 1


@contextmanager
def single_threads() -> Iterator[Callable[[], None]]:
    """Give what a new thread calls first to compute with one core in torch, where there is a thread for each core.

    Else each of them would start as many more, and they would wait for each other.
    """
    import torch

    before = torch.get_num_threads()
    try:
        yield lambda: torch.set_num_threads(1)  # of the calling thread, and of threads that are yet to come
    finally:
        torch.set_num_threads(before)
