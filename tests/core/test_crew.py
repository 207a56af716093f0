"""Threads that share out pieces."""

import threading
import time

import pytest
import torch

from inspection_core.crew import MOST, Crew
from inspection_core.device import torch_threads


@pytest.mark.parametrize("count", [0, 1, 2, 3, 99])
def test_every_piece_is_done_once(count):
    done = []
    with Crew(count) as crew:
        for many in (0, 1, 2, 50):
            done.clear()
            crew.share(done.append, range(many))
            assert sorted(done) == list(range(many))


@pytest.mark.parametrize(("count", "threads"), [(1, 1), (2, 2), (99, MOST)])
def test_so_many_threads_work_at_once(count, threads):
    """Each waits for the others, which only comes to an end where all are at work."""
    meet = threading.Barrier(threads, timeout=20)
    with Crew(count) as crew:
        crew.share(lambda piece: meet.wait(), range(threads))


def test_helpers_may_write_into_what_a_network_gave():
    """Tensors of an inference are closed to threads that do not infer."""
    with Crew(2) as crew, torch.inference_mode():
        values = torch.ones(64, 10)
        crew.share(lambda row: values[row].mul_(row), range(64))
    assert torch.equal(values[:, 0], torch.arange(64.0))


@pytest.mark.parametrize("count", [1, 2])
def test_the_error_of_a_piece_ends_the_work_and_is_raised(count):
    begun = []

    def work(piece):
        begun.append(piece)
        time.sleep(1e-4)
        if piece == 3:
            raise MemoryError("no room")

    with Crew(count) as crew:
        with pytest.raises(MemoryError, match="no room"):
            crew.share(work, range(2_000))
        assert len(begun) < 2_000
        crew.share(begun.append, [-1])  # and the crew is there for the next
    assert begun[-1] == -1


def test_its_threads_end_with_it():
    before = threading.active_count()
    with Crew(3) as crew:
        crew.share(lambda piece: None, range(100))
    assert threading.active_count() == before


def test_threads_that_come_later_have_all_cores_again():
    """The next run of the viewer, or the next request of a server, has a thread of its own."""

    def cores():
        told = []
        thread = threading.Thread(target=lambda: told.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return told[0]

    with torch_threads(2):
        with Crew(2) as crew:
            crew.share(lambda piece: torch.ones(4).sum(), range(8))
        assert cores() == 2
