"""One thread for Python and one a core for the network; what `test_pipeline.py` asks holds here too."""

import _thread
import signal
import threading
import time

import pytest

from inspection_core import interleave
from inspection_core.stages import Stages


def stages(read=lambda n: n, infer=list, finish=lambda n: n, record=lambda done: None):
    return Stages(read, lambda n: 1, infer, finish, record)


class Most:
    """Counts how many are inside at once."""

    def __init__(self):
        self.lock, self.inside, self.most = threading.Lock(), 0, 0

    def __call__(self, seconds, given):
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep(seconds)
        with self.lock:
            self.inside -= 1
        return given


def test_every_lane_has_an_input_where_one_more_is_held():
    """Room is given back a few at a time, but not so late that a lane goes without."""
    lanes, network = 12, Most()
    rest = stages(infer=lambda group: network(0.02, group))
    interleave.run(range(120), rest, depth=1, lanes=lanes)
    assert network.most == lanes
    assert interleave._Interleaved(rest, 1 + lanes, lanes).few == 1


@pytest.mark.parametrize("lanes", [2, 3])
def test_so_many_calls_are_in_the_network_and_no_more(lanes):
    network, done = Most(), []
    interleave.run(
        range(40), stages(infer=lambda group: network(0.005, group), record=done.extend), depth=None, lanes=lanes
    )
    assert done == list(range(40))
    assert network.most == lanes


def test_while_the_network_is_busy_one_thread_reads_and_finishes():
    names, python = set(), Most()

    def stage(n):
        names.add(threading.current_thread().name)
        return python(0, n)

    interleave.run(
        range(60), stages(read=stage, infer=lambda g: time.sleep(0.01) or g, finish=stage), depth=None, lanes=2
    )
    assert "work" in names
    assert sum(name.startswith("helper") for name in names) <= 2
    assert python.most <= 3  # at the beginning, when the network has nothing yet


@pytest.mark.parametrize("slow", ["read", "finish"])
def test_where_python_is_slow_several_threads_do_it(slow):
    python, done = Most(), []
    interleave.run(range(24), stages(**{slow: lambda n: python(0.02, n)}, record=done.extend), depth=None, lanes=2)
    assert done == list(range(24))
    assert python.most >= 2


def test_inputs_in_work_are_bounded():
    begun, done, far = [], [], []

    def finish(n):
        far.append(len(begun) - len(done))
        return n

    interleave.run(
        range(200), stages(read=lambda n: begun.append(n) or n, finish=finish, record=done.extend), depth=3, lanes=2
    )
    assert done == list(range(200))
    assert max(far) < 40  # five in work, and three times ten handed over


@pytest.fixture
def ctrl_c():
    """Ctrl-C as Python has it: where a shell starts the tests in the background, it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_records_what_was_through_the_network():
    done = []

    def infer(group):
        if group == [30]:
            _thread.interrupt_main()
            time.sleep(0.3)  # until it has arrived
        return group

    with pytest.raises(KeyboardInterrupt):
        interleave.run(range(100), stages(infer=infer, record=done.extend), depth=None, lanes=2)
    assert done[:31] == list(range(31))
    assert done == sorted(done)
    assert len(done) < 60
    assert not [t for t in threading.enumerate() if t.name.startswith(("work", "record", "network", "helper"))]


def test_an_error_does_not_wait_for_an_input_that_never_comes():
    never = threading.Event()

    def items():
        yield from range(5)
        never.wait(60)

    def record(done):
        raise OSError("full")

    started = time.monotonic()
    with pytest.raises(OSError, match="full"):
        interleave.run(items(), stages(record=record), depth=None, lanes=2)
    assert time.monotonic() - started < 30
    never.set()
