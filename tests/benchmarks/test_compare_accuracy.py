"""The comparison with a peer counts as its page says; figures are worked out by hand."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HERE = Path(__file__).resolve().parents[2] / "benchmarks" / "accuracy" / "compare_accuracy.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("compare_accuracy", HERE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize(
    ("alarms", "recall"),
    [(0, 2 / 4), (1, 2 / 4), (2, 3 / 4), (3, 1.0), (9, 1.0)],
    ids=["none", "tie with a good image is no find", "one more", "every good image", "more than there are"],
)
def test_recall_lets_so_many_good_images_pass(bench, alarms, recall):
    ranking = bench.Ranking(good=np.array([1.7, 2.0, 3.0]), defect=np.array([1.5, 2.0, 3.5, 4.0]))
    assert ranking.recall(alarms) == recall


def test_auroc_counts_wins_and_half_of_ties(bench):
    ranking = bench.Ranking(good=np.array([1.0, 2.0]), defect=np.array([2.0, 3.0]))
    assert ranking.auroc() == pytest.approx((1 + 0.5 + 1 + 1) / 4)


def test_gain_is_exact_where_both_rank_alike_and_one_sided_where_one_is_better(bench):
    rng = np.random.default_rng(0)
    good, defect = rng.normal(size=30), rng.normal(size=40) + 1
    ranking = bench.Ranking(good, defect)
    assert bench.auroc_gain(ranking, bench.Ranking(10 * good + 3, 10 * defect + 3)) == (0.0, 0.0)
    low, high = bench.auroc_gain(bench.Ranking(good, defect + 3), ranking)
    assert 0 < low < high


@pytest.fixture
def folders(tmp_path):
    """Two good and two defective images; ours finds both with one false alarm, the peer one."""
    dataset, peer, ours = tmp_path / "parts", tmp_path / "peer", tmp_path / "ours"
    maps = {}
    for kind, names in (("good", "ab"), ("hole", "cd")):
        (dataset / "test" / kind).mkdir(parents=True)
        for name in names:
            Image.fromarray(np.zeros((8, 16), np.uint8)).save(dataset / "test" / kind / f"{name}.png")
            maps[f"test/{kind}/{name}.png"] = np.zeros((4, 4), np.float32)
    (dataset / "ground_truth" / "hole").mkdir(parents=True)
    mask = np.zeros((8, 16), np.uint8)
    mask[:4] = 255
    for name in "cd":
        Image.fromarray(mask).save(dataset / "ground_truth" / "hole" / f"{name}_mask.png")
        maps[f"test/hole/{name}.png"][:2] = 1
    peer.mkdir()
    ours.mkdir()
    np.savez(peer / "maps.npz", **maps)
    paths = [*maps]
    kinds = ["good", "good", "hole", "hole"]
    rows = zip(paths, kinds, (1.0, 4.0, 3.0, 5.0), strict=True)
    (peer / "scores.csv").write_text(
        "path,kind,raw,normalised\n" + "".join(f"{p},{k},{s},{min(s / 4, 1)}\n" for p, k, s in rows)
    )
    rows = zip(paths, kinds, (1.0, 3.0, 4.0, 5.0), ("OK", "REVIEW", "NG", "NG"), strict=True)
    (ours / "evaluation.csv").write_text(
        "path,kind,score,verdict\n" + "".join(f"{p},{k},{s},{v}\n" for p, k, s, v in rows)
    )
    (ours / "figures.json").write_text(json.dumps({"pixel_auroc": 0.75, "au_pro": None}))
    settings = {"seed": 0, "coreset_ratio": 0.01, "references": 7, "versions": {}, "anomalib_figures": {}}
    (peer / "figures.json").write_text(json.dumps(settings))
    return dataset, peer, ours


def test_two_models_are_compared_image_by_image(bench, folders):
    result = bench.compare(*folders)
    assert result["image_auroc"] == {"ours": 1.0, "peer": 0.75, "peer_normalised": 0.625}  # clamping made a tie
    assert result["own_threshold"]["false_alarms"] == 0
    assert result["own_threshold"]["recall"] == 1.0
    assert result["own_threshold"]["peer_recall_at_as_many"] == 0.5
    assert result["recall_at_false_alarms"]["peer"] == {0: 0.5, 1: 1.0, 2: 1.0}
    assert result["pixel_auroc"]["peer"] > 0.98  # the enlarged map blurs across the edge of the mask
    assert "parts (2 / 2)" in bench.show([result])


def test_other_images_are_no_comparison(bench, folders):
    _, peer, _ = folders
    scores = (peer / "scores.csv").read_text()
    (peer / "scores.csv").write_text(scores.replace("hole/d.png", "hole/e.png"))
    with pytest.raises(SystemExit, match=r"different images, such as test/hole/d\.png"):
        bench.compare(*folders)
