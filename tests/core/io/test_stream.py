"""Reading ahead: in order, a few at a time, and no bad file stops the others."""

import threading
import time

import numpy as np
import PIL.Image
import pytest

from inspection_core.errors import ReadError
from inspection_core.image import Image
from inspection_core.io.stream import image_or_error, read_ahead


def test_results_come_in_the_order_of_the_items():
    def slow_first(item):
        time.sleep(0.02 if item == 0 else 0)
        return item * 10

    assert list(read_ahead(range(9), slow_first)) == [0, 10, 20, 30, 40, 50, 60, 70, 80]


@pytest.mark.parametrize("count", [0, 1, 4, 5])
def test_few_items(count):
    assert list(read_ahead(range(count), str)) == [str(i) for i in range(count)]


def test_memory_stays_bounded():
    started = []
    stream = read_ahead(range(1000), lambda item: started.append(item) or item, depth=3)
    assert next(stream) == 0
    time.sleep(0.05)
    assert len(started) <= 4
    stream.close()


def test_reading_happens_in_other_threads():
    assert threading.get_ident() not in set(read_ahead(range(3), lambda item: threading.get_ident()))


def test_a_number_of_threads():
    assert len(set(read_ahead(range(9), lambda item: threading.get_ident(), threads=1))) == 1


def test_an_error_that_is_no_users_passes_through():
    with pytest.raises(ZeroDivisionError):
        list(read_ahead([1, 0], lambda item: 1 / item))


def test_a_bad_file_is_returned_not_raised(tmp_path):
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    PIL.Image.fromarray(np.zeros((4, 5), np.uint8)).save(good)
    bad.write_bytes(b"not a picture")
    results = list(read_ahead([good, bad, tmp_path / "absent.png", good], image_or_error))
    assert [type(r) for r in results] == [Image, ReadError, ReadError, Image]
    assert "bad.png" in str(results[1])
