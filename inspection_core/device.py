"""Where and how to compute: the one place that chooses device, runtime, precision and batch.

On a CPU, networks run in OpenVINO where it is installed and the model can use it, else in torch; see
``docs/decisions/0037-openvino-on-the-cpu.md``.

The CUDA and MPS paths are written for GPUs and reviewed, but have not been run on one yet.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar, cast

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

PRECISIONS = ("float32", "float16", "bfloat16")
"""What a network computes in; results and sums are float32 all the same."""


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
    precision
        One of `PRECISIONS`. Below float32, torch chooses where it is safe (autocast).
    graphs
        Compile networks with ``torch.compile`` and replay them as CUDA graphs, which suits batches of one shape.
    shrink
        What the side of a tile is divided by. Windows whose size the card fixes stay as they are.
    """

    name: str
    batch: int = 1
    runtime: str = "torch"
    precision: str = "float32"
    graphs: bool = False
    shrink: int = 1

    @property
    def torch(self) -> torch.device:
        """The device as torch knows it, and as it names a tensor's place: ``cuda`` is ``cuda:0``."""
        import torch

        device = torch.device(self.name)
        return torch.device("cuda", device.index or 0) if device.type == "cuda" else device

    def __str__(self) -> str:
        return f"{self.name} {self.precision}" + ("" if self.runtime == "torch" else f" {self.runtime}")

    @property
    def told(self) -> str:
        """How it is used, in words."""
        tile = f", tiles of 1/{self.shrink} the side" if self.shrink > 1 else ""
        precision = f" in {self.precision}" if self.precision != "float32" else ""
        return f"{self.name}{precision} with a batch of {self.batch}{tile}"

    def autocast(self) -> AbstractContextManager[None]:
        """Return a context that a network is called in, so that it computes in this precision."""
        import torch

        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.torch.type, dtype=getattr(torch, self.precision))


def choose(name: str = "auto") -> Device:
    """Return the device to use.

    Parameters
    ----------
    name
        ``"auto"`` takes CUDA, then MPS, then the CPU; anything else is a torch device name. ``"cpu/torch"`` and
        ``"cpu/openvino"`` ask for a runtime too; on a GPU ``"cuda/float16"`` and ``"cuda/bfloat16"`` for a
        precision, and ``"cuda/graphs"`` for compiled networks; several with plus, as in ``"cuda/float16+graphs"``.

    Raises
    ------
    DeviceError
        If the device, or what is asked of it, is unknown or absent.
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
    if kind != "cpu":
        return _with_options(Device(name, batch=GPU_BATCH), wanted)
    if slash and wanted not in RUNTIMES:
        raise DeviceError(f'A runtime is asked for as "cpu/torch" or "cpu/openvino". Got "{name}/{wanted}".')
    if wanted == "openvino" and not has_openvino():
        raise DeviceError("OpenVINO is not installed here: pip install openvino, or choose cpu.")
    return Device(name, runtime=wanted or ("openvino" if has_openvino() else "torch"))


def _with_options(device: Device, wanted: str) -> Device:
    """Return a GPU's device with what stands behind the slash."""
    for option in wanted.split("+") if wanted else ():
        if option in PRECISIONS:
            device = replace(device, precision=option)
        elif option == "graphs":
            device = replace(device, graphs=True)
        else:
            raise DeviceError(
                f"A GPU takes {', '.join(PRECISIONS)} and graphs. Got {option!r} in {device.name}/{wanted}."
            )
    return device


def has_openvino() -> bool:
    """Tell whether OpenVINO is installed; it is not imported for that."""
    return importlib.util.find_spec("openvino") is not None


def place(network: torch.nn.Module, device: Device) -> torch.nn.Module:
    """Move a network to a device, in the memory format that its kind is fast with; return what to call."""
    import torch

    network.to(device.torch)
    if device.torch.type != "cuda":
        return network
    for parameter in network.parameters():
        form = {4: torch.channels_last, 5: torch.channels_last_3d}.get(parameter.ndim)
        if form is not None:
            parameter.data = parameter.data.contiguous(memory_format=form)
    return cast("torch.nn.Module", torch.compile(network, mode="reduce-overhead")) if device.graphs else network


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether `error` says that memory ran out, on the device or in the process."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # torch's CPU allocator and MPS raise a plain RuntimeError, told apart by its text alone.
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def rungs(device: Device) -> Sequence[Device]:
    """Return the memory ladder: the device itself, a batch of one, half the tile, half the precision, then the CPU.

    The first two rungs give the same to the last digits. A smaller tile shows a network less at a time, and float16
    rounds; results from there on are near, and say where they were made.
    """
    import torch

    ladder = [device]
    if device.batch > 1:
        ladder.append(replace(device, batch=1))
    kind = device.torch.type
    if kind == "cpu":
        return ladder
    ladder.append(replace(ladder[-1], shrink=2 * device.shrink, graphs=False))
    if device.precision == "float32" and torch.amp.is_autocast_available(kind):
        ladder.append(replace(ladder[-1], precision="float16"))
    return [*ladder, Device("cpu")]


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
    tried = ", ".join(rung.told for rung in ladder)
    raise DeviceError(
        f"Memory ran out on every rung ({tried}). Close other programs, or make a model with a smaller inference size."
    )


def threads() -> int:
    """Return the number of CPU cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        return os.cpu_count() or 1


def blenders(device: Device) -> int:
    """Return how many threads may blend and decide what a network gives: torch's cores on a CPU, one beside a GPU."""
    import torch

    return torch.get_num_threads() if device.torch.type == "cpu" else 1


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch compute with so many cores in this thread meanwhile.

    For many small steps one is faster: others would spend more time on waiting for the next step than on this one.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
