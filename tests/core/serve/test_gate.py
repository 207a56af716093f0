"""Admission: how fast, how many, how much; and what a refused client is told."""

import asyncio

import pytest

from inspection_core.device import Device
from inspection_core.errors import UsageError
from inspection_core.serve.gate import Gate
from inspection_core.serve.limits import Limits, RefusalError


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_client_may_burst_and_then_keeps_its_rate():
    clock = Clock()
    gate = Gate(Limits(rate=2, burst=3), 1, clock)
    for _ in range(3):
        gate.count("a")
    with pytest.raises(RefusalError, match="2 times a second") as refused:
        gate.count("a")
    assert (refused.value.status, refused.value.reason, refused.value.retry_after) == (429, "rate", 1)
    gate.count("b")  # another client has its own
    clock.now = 0.5
    gate.count("a")
    clock.now = 1000
    for _ in range(3):  # no more than a burst is saved up
        gate.count("a")
    with pytest.raises(RefusalError):
        gate.count("a")


def test_places_are_bounded_and_come_back_once():
    gate = Gate(Limits(queue=1), workers=1)
    first, second = gate.place(), gate.place()
    assert gate.why_not_ready() == "busy"
    with pytest.raises(RefusalError, match="2 requests are before") as refused:
        gate.place()
    assert (refused.value.status, refused.value.reason) == (503, "queue")
    assert 1 <= refused.value.retry_after <= 30
    first.give_back()
    first.give_back()
    assert gate.places == 1
    gate.place()
    second.give_back()
    assert gate.places == 1


def test_held_bytes_are_bounded_one_by_one_and_together():
    gate = Gate(Limits(max_bytes=10, held_bytes=15), workers=4)
    first, second = gate.place(), gate.place()
    first.hold(6)
    first.hold(4)
    with pytest.raises(RefusalError, match="up to 10 bytes") as large:
        first.hold(1)
    with pytest.raises(RefusalError, match="fill the server's memory") as full:
        second.hold(6)
    assert (large.value.status, full.value.status) == (413, 503)
    first.answer(50)  # larger than its upload: those who come meanwhile are refused
    with pytest.raises(RefusalError, match="fill the server's memory"):
        second.hold(1)
    first.give_back()
    second.hold(6)
    assert gate.held == 6


def test_who_waits_too_long_is_told_to_come_again():
    async def main() -> None:
        gate = Gate(Limits(wait_seconds=0.05), workers=1)
        async with gate.turn():
            assert gate.running == 1
            with pytest.raises(RefusalError, match="No worker got free") as refused:
                async with gate.turn():
                    pass
        assert (refused.value.status, refused.value.reason) == (503, "wait")
        async with gate.turn():
            assert gate.running == 1
        assert gate.running == 0

    asyncio.run(main())


def test_a_stopping_gate_takes_nobody():
    gate = Gate(Limits(), 1)
    gate.stopping = True
    with pytest.raises(RefusalError, match="stopping"):
        gate.place()
    assert gate.why_not_ready() == "stopping"


BAD = {
    "no bytes": {"max_bytes": 0},
    "holds less than one upload": {"max_bytes": 10, "held_bytes": 9},
    "no rate": {"rate": 0.0},
    "endless": {"wait_seconds": float("inf")},
    "a queue below nothing": {"queue": -1},
}


@pytest.mark.parametrize("given", BAD.values(), ids=BAD)
def test_limits_that_make_no_sense(given):
    with pytest.raises(UsageError, match=next(iter(given)) if len(given) == 1 else "held_bytes"):
        Limits(**given)


def test_a_gpu_gets_as_many_workers_as_its_batch_has_places():
    assert Limits().workers_on(Device("meta", batch=500)) == 500
    assert Limits().workers_on(Device("cpu")) >= 1
    assert Limits(workers=3).workers_on(Device("meta", batch=16)) == 3
