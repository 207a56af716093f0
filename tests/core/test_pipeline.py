"""Stages that overlap: order, bounds, errors of any stage, and interruptions."""

import threading
import time

import pytest

from inspection_core import pipeline
from inspection_core.pipeline import Finished, Stages


def stages(read=lambda n: n, infer=list, finish=lambda n: n, record=lambda done: None, weight=lambda n: 1):
    return Stages(read, weight, infer, finish, record)


@pytest.fixture(params=[1, 2, 5])
def lanes(request):
    """Calls of the network that may run at once."""
    return request.param


def test_results_come_in_the_order_of_the_inputs_whatever_takes_long(lanes):
    done = []

    def slow_first(n):
        time.sleep(0.02 * (n % 3 == 0))
        return Finished(-n) if n % 7 == 5 else n

    pipeline.run(range(40), stages(read=slow_first, finish=slow_first_finish, record=done.extend), batch=4, lanes=lanes)
    assert done == [-n if n % 7 == 5 else 10 * n for n in range(40)]


def slow_first_finish(n):
    time.sleep(0.01 * (n % 2))
    return 10 * n


def test_with_lanes_calls_of_the_network_run_at_once_and_order_stays():
    done, both = [], threading.Barrier(2, timeout=20)

    def infer(group):
        both.wait()  # one call alone would wait for ever
        return group

    pipeline.run(range(20), stages(infer=infer, record=done.extend), lanes=2)
    assert done == list(range(20))


def test_the_first_result_is_recorded_at_once_and_those_that_keep_coming_together(lanes):
    together = []

    def read(n):
        time.sleep(0.002)
        return n

    pipeline.run(range(60), stages(read=read, record=lambda done: together.append(list(done))), lanes=lanes)
    assert [n for done in together for n in done] == list(range(60))
    assert len(together[0]) <= lanes + 1
    assert max(map(len, together)) > 1
    assert len(together) < 20


def test_a_result_waits_no_longer_than_a_pause_for_the_next():
    recorded = {}

    def slow_last(n):
        time.sleep(1.0 if n == 3 else 0)
        return n

    def record(done):
        recorded.update(dict.fromkeys(done, time.monotonic()))

    pipeline.run(range(4), stages(read=slow_last, record=record))
    assert recorded[3] - recorded[2] > 0.5


def test_nothing_at_all(lanes):
    pipeline.run([], stages(), lanes=lanes)


def test_batches_are_no_larger_than_asked_for():
    seen = []
    weights = stages(weight=lambda n: 2, infer=lambda group: seen.append(len(group)) or group)
    pipeline.run(range(30), weights, batch=5)
    assert sum(seen) == 30
    assert max(seen) <= 3  # three of weight two fill five places


def test_a_slow_end_holds_the_beginning_back(lanes):
    begun, recorded = [], []
    far = []

    def record(done):
        time.sleep(0.005)
        recorded.extend(done)
        far.append(len(begun) - len(recorded))

    pipeline.run(range(300), stages(read=lambda n: begun.append(n) or n, record=record), depth=4, lanes=lanes)
    assert len(recorded) == 300
    assert max(far) < 90  # two queues, two pools and one group; not three hundred


class BrokenError(Exception):
    pass


def breaks_at(number, error=BrokenError):
    def stage(n):
        if n == number:
            raise error
        return n

    return stage


BROKEN = {
    "items": lambda: (breaks_at(20)(n) for n in range(100)),
    "read": {"read": breaks_at(20)},
    "infer": {"infer": lambda group: [breaks_at(20)(n) for n in group]},
    "finish": {"finish": breaks_at(20)},
}


@pytest.mark.parametrize("stage", BROKEN)
def test_an_error_of_a_stage_is_raised_and_what_was_before_it_is_recorded(stage, lanes):
    done = []
    broken = BROKEN[stage]
    items = broken() if callable(broken) else range(100)
    with pytest.raises(BrokenError):
        pipeline.run(items, stages(record=done.extend, **({} if callable(broken) else broken)), lanes=lanes)
    assert done == list(range(len(done)))
    assert len(done) <= 20
    if stage == "finish":
        assert len(done) == 20
    assert not [
        t for t in threading.enumerate() if t.name.startswith(("feed", "record", "read_", "finish_", "work", "helper_"))
    ]


def test_an_error_of_the_recording_is_raised(lanes):
    def record(done):
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        pipeline.run(range(1000), stages(record=record), lanes=lanes)


def test_an_interruption_records_what_was_through_the_network(lanes):
    done = []
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(range(100), stages(infer=lambda g: [breaks_at(30, KeyboardInterrupt)(n) for n in g],
                                        record=done.extend), lanes=lanes)  # fmt: skip
    assert done == list(range(30))


def test_inputs_that_trickle_in_are_done_at_once(lanes):
    """Each is recorded before the next one comes; neither a batch nor a queue keeps it waiting."""
    recorded, order = threading.Event(), []

    def slowly():
        for number in range(5):
            recorded.clear()
            yield number
            assert recorded.wait(60)

    def record(done):
        order.extend(done)
        recorded.set()

    pipeline.run(slowly(), stages(record=record), batch=16, lanes=lanes)
    assert order == list(range(5))
