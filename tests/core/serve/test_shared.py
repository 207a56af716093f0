"""One model, many threads: batches fill with the load, and nobody notices the others."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from inspection_core.engine import LoadedModel
from inspection_core.errors import ModelError
from inspection_core.infer import predict
from inspection_core.serve.shared import SharedModel


def shared(model: LoadedModel) -> tuple[SharedModel, list[int]]:
    counts: list[int] = []
    return SharedModel.of(model, 1 << 20, counts.append), counts


def start(model: SharedModel, images) -> tuple[ThreadPoolExecutor, list]:
    """Let the first image into the network, and the others wait behind it."""
    pool = ThreadPoolExecutor(len(images))
    model.predictor.gate.clear()
    futures = [pool.submit(predict, images[0], model)]
    assert model.predictor.entered.acquire(timeout=10)
    for image in images[1:]:
        before = len(model._waiting)
        futures.append(pool.submit(predict, image, model))
        for _ in range(10_000):  # ten seconds, and no longer: nobody waits for ever for what does not come
            if len(model._waiting) > before:
                break
            threading.Event().wait(0.001)
        assert len(model._waiting) > before
    return pool, futures


def test_those_who_wait_go_together_and_get_what_they_would_get_alone(tmp_path, make_blocks, make_picture):
    model, counts = shared(make_blocks(tmp_path, batch=4))
    sizes = [(32, 48), (32, 48), (64, 64), (32, 48), (72, 160), (32, 48)]
    images = [make_picture(i, size) for i, size in enumerate(sizes)]
    pool, futures = start(model, images)
    model.predictor.gate.set()
    together = [f.result(30) for f in futures]
    pool.shutdown()
    assert counts == [1, 4, 1]
    assert all(shape[0] == 4 for shape in model.predictor.batches)  # a fixed number of places
    alone = make_blocks(tmp_path, batch=4)
    for image, prediction in zip(images, together, strict=True):
        lone = predict(image, alone)
        assert prediction.score.tobytes() == lone.score.tobytes()
        assert (prediction.image_score, prediction.findings) == (lone.image_score, lone.findings)


def test_on_a_cpu_everyone_goes_alone(tmp_path, make_blocks, make_picture):
    model, counts = shared(make_blocks(tmp_path))
    pool, futures = start(model, [make_picture(i) for i in range(3)])
    model.predictor.gate.set()
    for future in futures:
        future.result(30)
    pool.shutdown()
    assert counts == [1, 1, 1]


def test_an_error_reaches_the_one_it_belongs_to(tmp_path, make_blocks, make_picture):
    model, _ = shared(make_blocks(tmp_path, batch=4))
    real = model.predictor

    class Picky(type(real)):
        def __call__(self, batch):
            if bool((batch == 1).all(dim=(1, 2, 3)).any()):  # a picture of 255 alone
                raise ModelError("too bright")
            return super().__call__(batch)

    model.predictor = Picky()
    bright = make_picture(1)
    bright = type(bright)(np.full_like(bright.array, 255), bright.geometry, bright.channels)
    pool, futures = start(model, [make_picture(0), bright, make_picture(2)])
    model.predictor.gate.set()
    assert futures[0].result(30).verdict
    assert futures[2].result(30).verdict
    with pytest.raises(ModelError, match="too bright"):
        futures[1].result(30)
    pool.shutdown()
