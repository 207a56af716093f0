"""Accuracy beside the peer's, image by image on the same test images.

It reads what `peer_patchcore.py` wrote for a set, and what the suite wrote for the same set::

    inspection evaluate MODEL SET --out OURS --json OURS/figures.json
    python benchmarks/accuracy/compare_accuracy.py --set SET PEER OURS [--set ...] [--json RESULT]

How the two are compared:

* **Image AUROC** from raw scores, with the 95 % bootstrap interval of the difference: good and defective images are
  drawn apart, and both models are judged on the same draw.
* **Recall at the same number of false alarms**: the share of defective images that score above all good test images but
  k. Both cuts are laid through the test images themselves, so this compares rankings; nobody can set such a threshold
  beforehand.
* **At the model's own threshold**: the suite's NG verdicts, set from training images alone, and what the peer finds
  with as many false alarms. The peer gets the best cut that the test images allow, the suite the one that it chose
  beforehand.
* **Pixels**: the peer's maps are enlarged to the image (bilinear) and go through the same code as the suite's, at full
  resolution. anomalib's own figure, at 256 x 256, stands beside them.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from inspection_core.evaluate import GOOD, cases, read_mask
from inspection_core.metrics import PixelScores, clopper_pearson

ALARMS = range(7)
"""Numbers of false alarms that recall is given at."""
DRAWS = 5000


@dataclass(frozen=True)
class Ranking:
    """Scores ``(n_good,)`` and ``(n_defect,)`` of one model on the test images."""

    good: NDArray[np.float64]
    defect: NDArray[np.float64]

    def wins(self) -> NDArray[np.float64]:
        """Return ``(n_defect, n_good)``: 1 where the defective image scores higher, one half for a tie."""
        return (self.defect[:, None] > self.good) + 0.5 * (self.defect[:, None] == self.good)

    def auroc(self) -> float:
        """Return the area under the ROC curve: the share of wins."""
        return float(self.wins().mean())

    def recall(self, alarms: int) -> float:
        """Return the highest recall with at most so many good images above the cut."""
        if alarms >= self.good.size:
            return 1.0
        return float((self.defect > np.sort(self.good)[::-1][alarms]).mean())


def auroc_gain(ours: Ranking, peer: Ranking, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile interval of our AUROC minus the peer's over paired draws of the images."""
    difference = ours.wins() - peer.wins()
    n_defect, n_good = difference.shape
    rng = np.random.default_rng(seed)
    # How often each image was drawn is enough: the mean over a draw is a product of counts.
    defect = rng.multinomial(n_defect, np.full(n_defect, 1 / n_defect), draws)
    good = rng.multinomial(n_good, np.full(n_good, 1 / n_good), draws)
    gains = np.einsum("nd,dg,ng->n", defect, difference, good, optimize=True) / (n_defect * n_good)
    low, high = np.quantile(gains, (0.025, 0.975))
    return float(low), float(high)


def peer_pixels(dataset: Path, maps: Path) -> tuple[float | None, float | None]:
    """Return pixel AUROC and AU-PRO of the peer's maps, enlarged to the images."""
    pixels = PixelScores()
    with np.load(maps) as stored:
        for case in cases(dataset):
            score = Image.fromarray(stored[case.path.relative_to(dataset).as_posix()])
            with Image.open(case.path) as image:
                size = image.size
            score_map = np.asarray(score.resize(size, Image.Resampling.BILINEAR))
            if case.kind == GOOD:
                pixels.add(score_map, None)
            elif case.mask is not None:
                pixels.add(score_map, read_mask(case.mask, score_map.shape))
    results = pixels.results()
    return results.auroc, results.au_pro


def compare(dataset: Path, peer: Path, ours: Path) -> dict[str, Any]:
    """Return the figures of one set."""
    rows = pd.read_csv(ours / "evaluation.csv").merge(
        pd.read_csv(peer / "scores.csv"), on=["path", "kind"], how="outer", indicator=True, validate="one_to_one"
    )
    if (lonely := rows[rows["_merge"] != "both"]).size:
        raise SystemExit(f"{ours} and {peer} measured different images, such as {lonely['path'].iloc[0]}.")
    good = (rows["kind"] == GOOD).to_numpy()
    rankings = {
        name: Ranking(rows.loc[good, column].to_numpy(float), rows.loc[~good, column].to_numpy(float))
        for name, column in (("ours", "score"), ("peer", "raw"), ("peer_normalised", "normalised"))
    }
    ng = (rows["verdict"] == "NG").to_numpy()
    alarms = int(ng[good].sum())
    alarm_interval = clopper_pearson(alarms, int(good.sum()))
    recall = int(ng[~good].sum()) / int((~good).sum())
    own = json.loads((ours / "figures.json").read_text())
    theirs = json.loads((peer / "figures.json").read_text())
    pixel_auroc, au_pro = peer_pixels(dataset, peer / "maps.npz")
    return {
        "set": dataset.name,
        "n_good": int(good.sum()),
        "n_defect": int((~good).sum()),
        "image_auroc": {name: ranking.auroc() for name, ranking in rankings.items()},
        "image_auroc_gain_95": auroc_gain(rankings["ours"], rankings["peer"]),
        "pixel_auroc": {"ours": own["pixel_auroc"], "peer": pixel_auroc},
        "peer_own_figures": theirs["anomalib_figures"],
        "au_pro": {"ours": own["au_pro"], "peer": au_pro},
        "recall_at_false_alarms": {
            name: {k: rankings[name].recall(k) for k in ALARMS if k <= good.sum()} for name in ("ours", "peer")
        },
        "own_threshold": {
            "false_alarms": alarms,
            "false_alarm_rate": alarms / int(good.sum()),
            "false_alarm_interval_95": (alarm_interval.low, alarm_interval.high),
            "recall": recall,
            "peer_recall_at_as_many": rankings["peer"].recall(alarms),
        },
        "peer": {k: theirs[k] for k in ("seed", "coreset_ratio", "references", "versions")},
    }


def show(results: list[dict[str, Any]]) -> str:
    """Return the figures as Markdown."""
    lines = [
        "| set (good / defective) | model | image AUROC | pixel AUROC | AU-PRO (0.3) | "
        + " | ".join(f"recall at {k}" for k in ALARMS)
        + " |",
        "| --- | --- | --- | --- | --- |" + " --- |" * len(ALARMS),
    ]
    for r in results:
        for name in ("ours", "peer"):
            cells = [
                f"{r['set']} ({r['n_good']} / {r['n_defect']})",
                name,
                *(_figure(r[figure][name]) for figure in ("image_auroc", "pixel_auroc", "au_pro")),
                *(_figure(r["recall_at_false_alarms"][name].get(k)) for k in ALARMS),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| set | AUROC, ours minus peer (95 %) | good NG (95 %) | recall at our threshold | peer's at as many alarms |",
        "| --- | --- | --- | --- | --- |",
    ]
    for r in results:
        low, high = r["image_auroc_gain_95"]
        own = r["own_threshold"]
        gain = r["image_auroc"]["ours"] - r["image_auroc"]["peer"]
        rate_low, rate_high = own["false_alarm_interval_95"]
        lines.append(
            f"| {r['set']} | {gain:+.3f} ({low:+.3f} to {high:+.3f}) | {own['false_alarms']} of {r['n_good']} "
            f"({rate_low:.3f} to {rate_high:.3f}) | {own['recall']:.3f} | {own['peer_recall_at_as_many']:.3f} |"
        )
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def main() -> None:
    """Compare, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--set", nargs=3, type=Path, action="append", required=True, metavar=("SET", "PEER", "OURS"), dest="sets"
    )
    parser.add_argument("--json", type=Path, metavar="RESULT")
    options = parser.parse_args()
    results = [compare(dataset.resolve(), peer, ours) for dataset, peer, ours in options.sets]
    print(show(results))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
