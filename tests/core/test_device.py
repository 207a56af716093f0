"""Choosing a device, and the ladder that a job climbs down when memory runs out."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from inspection_core import device as devices
from inspection_core.device import GPU_BATCH, Device, choose, is_out_of_memory, on_ladder, place, rungs, threads
from inspection_core.errors import DeviceError

FAKE = Device("meta", batch=4)
"""Stands for a GPU: torch knows the name on every machine."""


@pytest.fixture
def gpus(monkeypatch):
    """Return a function that makes torch see some CUDA devices, and MPS or not."""

    def see(cuda: int, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return see


# name: (asked for, CUDA devices, MPS there, device)
CHOICES = {
    "auto with nothing": ("auto", 0, False, Device("cpu", 1, "openvino")),
    "auto on a Mac": ("auto", 0, True, Device("mps", GPU_BATCH)),
    "auto prefers CUDA": ("auto", 1, True, Device("cuda", GPU_BATCH)),
    "CPU where there is more": ("cpu", 2, False, Device("cpu", 1, "openvino")),
    "CPU with torch": ("cpu/torch", 0, False, Device("cpu", 1)),
    "CPU with OpenVINO": ("cpu/openvino", 0, False, Device("cpu", 1, "openvino")),
    "half precision": ("cuda/float16", 1, False, Device("cuda", GPU_BATCH, precision="float16")),
    "graphs too": ("cuda/bfloat16+graphs", 1, False, Device("cuda", GPU_BATCH, precision="bfloat16", graphs=True)),
    "the second GPU": ("cuda:1", 2, False, Device("cuda:1", GPU_BATCH)),
}


@pytest.mark.parametrize(("name", "cuda", "mps", "expected"), CHOICES.values(), ids=CHOICES)
def test_choose(gpus, name, cuda, mps, expected):
    gpus(cuda, mps)
    assert choose(name) == expected


# name: (asked for, CUDA devices, message)
REFUSED = {
    "no device": ("toaster", 0, r'^A device is "auto", "cpu", "cuda", "cuda:N" or "mps"\. Got \'toaster\'\.$'),
    "nothing": ("", 0, r"Got ''\.$"),
    "absent": (
        "cuda",
        0,
        r"^The device 'cuda' is not here\. This machine has: cpu; choose one of them or auto\.$",
    ),
    "a runtime of a GPU": (
        "cuda/openvino",
        1,
        r"^A GPU takes float32, float16, bfloat16 and graphs\. Got 'o",
    ),
    "a precision of the CPU": ("cpu/float16", 1, r'^A runtime is asked for as "cpu/torch" or "cpu/openvino"\. Got '),
    "of torch, not of ours": ("meta", 1, r"^The device 'meta' is not here\. This machine has: cpu, cuda;"),
    "no runtime": ("cpu/toast", 0, r'Got "cpu/toast"\.$'),
    "one too many": ("cuda:2", 2, r"^There are 2 CUDA devices, counted from 0\. Got 'cuda:2'\.$"),
}


@pytest.mark.parametrize(("name", "cuda", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(gpus, name, cuda, message):
    gpus(cuda)
    with pytest.raises(DeviceError, match=message):
        choose(name)


def test_without_openvino_a_cpu_computes_in_torch(monkeypatch):
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    assert choose("cpu") == Device("cpu")
    with pytest.raises(DeviceError, match=r"^OpenVINO is not installed here: pip install openvino, or choose cpu\.$"):
        choose("cpu/openvino")


# name: (error, whether it says that memory ran out)
OUT_OF_MEMORY = {
    "CUDA": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
    "MPS": (RuntimeError("MPS backend out of memory"), True),
    "CPU": (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"), True),
    "Python": (MemoryError(), True),
    "another runtime error": (RuntimeError("shapes cannot be multiplied"), False),
    "a value error that talks of it": (ValueError("out of memory"), False),
}


@pytest.mark.parametrize(("error", "expected"), OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_is_out_of_memory(error, expected):
    assert is_out_of_memory(error) is expected


def test_torchs_own_allocator_is_understood():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_rungs():
    assert rungs(Device("cpu")) == [Device("cpu")]
    assert rungs(FAKE) == [FAKE, Device("meta", 1), Device("meta", 1, shrink=2), Device("cpu")]
    assert rungs(Device("cuda", 4, graphs=True)) == [
        Device("cuda", 4, graphs=True),
        Device("cuda", 1, graphs=True),
        Device("cuda", 1, shrink=2),
        Device("cuda", 1, shrink=2, precision="float16"),
        Device("cpu"),
    ]
    half = Device("cuda", 1, precision="bfloat16")
    assert rungs(half) == [half, Device("cuda", 1, precision="bfloat16", shrink=2), Device("cpu")]


@pytest.mark.parametrize("room_on", [0, 1, 2, 3])
def test_the_first_rung_with_room_does_the_work(room_on):
    tried = []

    def work(rung: Device) -> str:
        tried.append(rung)
        if len(tried) <= room_on:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return "done"

    assert on_ladder(FAKE, work) == ("done", rungs(FAKE)[room_on])
    assert tried == rungs(FAKE)[: room_on + 1]


def test_no_room_on_the_last_rung_is_said():
    def work(rung: Device) -> None:
        raise MemoryError

    message = (
        r"^Memory ran out on every rung \(meta with a batch of 4, meta with a batch of 1, "
        r"meta with a batch of 1, tiles of 1/2 the side, cpu with a batch of 1\)\. "
        r"Close other programs, or make a model with a smaller inference size\.$"
    )
    with pytest.raises(DeviceError, match=message):
        on_ladder(FAKE, work)


def test_any_other_error_passes_through_at_once():
    tried = []

    def work(rung: Device) -> None:
        tried.append(rung)
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        on_ladder(FAKE, work)
    assert tried == [FAKE]


def test_a_device_tells_its_precision():
    assert str(Device("cuda:1", 16)) == "cuda:1 float32"
    assert str(Device("cpu", runtime="openvino")) == "cpu float32 openvino"
    assert Device("cuda", 1, precision="float16").told == "cuda in float16 with a batch of 1"


def test_precision_is_that_of_the_network_alone():
    x = torch.ones(2, 2)
    with Device("cpu", precision="bfloat16").autocast():
        assert (x @ x).dtype == torch.bfloat16
    with Device("cpu").autocast():
        assert (x @ x).dtype == torch.float32


def test_a_network_is_placed_channels_last_on_cuda_alone(monkeypatch):
    network = torch.nn.Sequential(torch.nn.Conv3d(2, 4, 3), torch.nn.Conv2d(4, 4, 3))
    assert place(network, Device("cpu")) is network
    assert network[0].weight.is_contiguous()
    monkeypatch.setattr(network, "to", lambda device: network)  # as if there were a GPU
    assert place(network, Device("cuda")) is network
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert network[1].weight.is_contiguous(memory_format=torch.channels_last)
    modes = []
    monkeypatch.setattr(torch, "compile", lambda network, mode: modes.append(mode) or "compiled")
    assert place(network, Device("cuda", graphs=True)) == "compiled"
    assert modes == ["reduce-overhead"]


def test_threads_of_a_pool_compute_with_one_core_each():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with devices.single_threads() as start, ThreadPoolExecutor(1, initializer=start) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_threads_are_those_of_this_process(monkeypatch):
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda pid: {0, 3}, raising=False)
    assert threads() == 2


def test_threads_where_the_system_does_not_say(monkeypatch):
    monkeypatch.delattr(devices.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(devices.os, "cpu_count", lambda: None)
    assert threads() == 1
