"""Samples of py-spy become shares of functions."""

RAW = """\
<module> (hot_spots.py:1);load (engine.py:3) 50
<module> (hot_spots.py:1);counted (hot_spots.py:5);screen (screen.py:7) 10
<module> (hot_spots.py:1);counted (hot_spots.py:5);Condition.wait (threading.py:295) 7
_bootstrap (threading.py:966);_worker (concurrent/futures/thread.py:81);search (nearest.py:62) 30
_bootstrap (threading.py:966);_worker (concurrent/futures/thread.py:69) 99
"""


def test_a_share_counts_the_work_alone_and_no_waiting(script):
    hot_spots = script("hot_spots")
    samples = hot_spots.sampled(RAW)
    assert samples == {"screen (screen.py:7)": 10, "search (nearest.py:62)": 30}
    made = hot_spots.result_table("volume", dict(samples.most_common()))
    assert made["rows"][0] == ["`search (nearest.py:62)`", "75.0%"]
