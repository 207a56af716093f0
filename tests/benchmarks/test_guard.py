"""What the guard says of a figure, and that it counts what is done."""

import numpy as np
import pytest


@pytest.fixture
def guard(script):
    return script("guard")


def test_every_figure_is_held_against_what_is_let_through(guard, monkeypatch):
    monkeypatch.setattr(guard, "EXPECTED", {"network calls": 8, "bytes a pixel": 10.0})
    assert guard.judged("network calls", 8) == ("8", "ok")
    assert guard.judged("network calls", 9)[1] == "more"
    assert guard.judged("bytes a pixel", 10.9) == ("11", "ok")
    assert guard.judged("bytes a pixel", 11.1)[1] == "more"
    assert guard.judged("bytes a pixel", 6)[1] == "less"


def test_every_expected_figure_has_a_tolerance(guard):
    assert {name.split()[0] for name in guard.EXPECTED} == set(guard.ALLOWED)


def test_bytes_are_those_of_the_work(guard):
    held = guard.most_bytes(lambda: np.ones(1 << 20, np.uint8).sum())
    assert 1 << 20 <= held < 1.1 * (1 << 20)


def test_a_ratio_is_that_of_the_work(guard):
    many, few = np.ones(4_000_000), np.ones(1_000_000)
    assert 2 < guard.ratio(lambda: many.sum(), lambda: few.sum(), 20) < 8
