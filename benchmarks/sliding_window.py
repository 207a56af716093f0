"""A network over blocks of a volume, beside MONAI's ``SlidingWindowInferer``: seconds, memory, and whether they agree.

    python benchmarks/sliding_window.py                                   the volumes of docs/performance.md
    python benchmarks/sliding_window.py --volumes 1x96x160x160x3 --rounds 1      a quick look
    python benchmarks/sliding_window.py --device cuda                     on a GPU

A volume is CHANNELSxDEPTHxHEIGHTxWIDTHxCLASSES. Both sides have the same ``UNet`` (channels 16, 32, 64, 128, strides 2,
one residual unit, random weights), the same windows of 96 voxels a side, half a window of overlap and Gaussian weights.
Each run has a process of its own. Time and peak memory count from when network and input are loaded until score and
mask are there; both count for both. MONAI's softmax and argmax are compared with our score and mask voxel by voxel.

Rows: MONAI; ours; ours in torch instead of OpenVINO; ours with background skipped, compared where it was not skipped.
The input is noise in a ball, smooth in places, and 0 around it.

The peak memory of a study of a thousand slices is measured twice: `predict` with a stand-in for the network, whose mask
has every class, and the whole command with a ``monai-unet`` of these layers, from the study's file to the results'.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import arguments, in_process, machine, measured, peak_bytes, plot, ratios, render, spread, table, write_json

VOLUMES = ("3x160x240x240x4", "1x300x512x512x4", "1x300x512x512x20")
GROWING = ("1x96x96x96x4", "1x96x192x192x4", "1x192x192x192x4", "1x192x288x288x4")
LARGE = "1x1000x512x512x20"
TITLES = {
    "monai": "MONAI SlidingWindowInferer, softmax, argmax",
    "ours": "ours",
    "torch": "ours, in torch",
    "skip": "ours, background skipped",
}
SIDE, OVERLAP = 96, 0.5
TIMES, ROOM, SCORE, OTHER = 2, 1 / 3, 1e-3, 1e-4
"""What was wanted: times MONAI's speed, share of its memory, difference of scores, share of voxels of another class."""
PACKAGES = ("inspection-suite", "torch", "openvino", "monai", "numpy")


def ball(shape):
    """Return noise in a ball and 0 around it, float32 ``(C, d, h, w)``, made plane by plane."""
    rng = np.random.default_rng(0)
    out = np.zeros(shape, np.float32)
    y, x = (np.linspace(-1, 1, n)[:, None] if k == 0 else np.linspace(-1, 1, n) for k, n in enumerate(shape[2:]))
    for z, height in enumerate(np.linspace(-1, 1, shape[1])):
        inside = y**2 + x**2 + height**2 < 0.6
        out[:, z][:, inside] = rng.random((shape[0], inside.sum()), np.float32) + 0.05
    return out


def card_of(channels, classes, skip=False):
    from inspection_core.card import ModelCard, Policy, Preparation

    preparation = Preparation(
        view="volume", window=(0.0, 1.0), short_side=0, multiple=8, window_size=(SIDE,) * 3, overlap=OVERLAP,
        blend="gaussian", steps="fixed", average="logits", skip_background=skip,
    )  # fmt: skip
    return ModelCard(
        "sliding", "1", "monai-unet", "segmentation", tuple(f"c{k}" for k in range(channels)), "1 - P(background)",
        tuple(f"class {k}" for k in range(1, classes)), preparation=preparation, policy=Policy(kind="band"),
        parameters={"residual_units": 1},
    )  # fmt: skip


def make_model(folder, channels, classes):
    """Write a model with random weights, the same every time."""
    import torch

    from inspection_core.models import weights
    from inspection_core.models.monai_unet import build, tensors

    torch.manual_seed(0)
    card = card_of(channels, classes)
    return weights.save(folder, card, tensors([build(card)], card))


def run_monai(folder, pixels, device):
    """Return score and mask as MONAI's users make them."""
    import torch
    from monai.inferers import SlidingWindowInferer

    from inspection_core.card import ModelCard
    from inspection_core.models import weights
    from inspection_core.models.members import rebuilt
    from inspection_core.models.monai_unet import build

    card = ModelCard.load(folder)
    (network,) = rebuilt(weights.load(folder, card), card, build)
    network.to(device)
    inferer = SlidingWindowInferer((SIDE,) * 3, sw_batch_size=1, overlap=OVERLAP, mode="gaussian", sw_device=device,
                                   device="cpu")  # fmt: skip
    batch = torch.from_numpy(pixels)[None]

    def work():
        with torch.inference_mode():
            probabilities = inferer(batch, network).softmax(dim=1)
            return (1 - probabilities[0, 0]).numpy(), probabilities[0].argmax(dim=0).to(torch.uint8).numpy()

    return work


def run_ours(folder, pixels, device, skip=False):
    import torch

    from inspection_core.card import ModelCard
    from inspection_core.device import choose
    from inspection_core.engine import LoadedModel
    from inspection_core.models import load_predictor
    from inspection_core.placement import Placement
    from inspection_core.prepare import Prepared

    card, device = ModelCard.load(folder), choose(device)
    predictor = load_predictor(folder, card, device)
    card = card_of(len(card.channels), 1 + len(card.classes), skip)
    model = LoadedModel(card, Path(folder), predictor, device)
    shape = pixels.shape[1:]
    place = Placement(shape, (0, 1, 2), (False,) * 3, (0, 0, 0), shape, shape, shape)
    prepared = Prepared(torch.from_numpy(pixels), shape, (), place)

    def work():
        segmented, _ = model.run_classes(prepared)
        return segmented.score, segmented.mask

    return work


def shells(shape, classes):
    """Return nested shells, one a class and the background around them, int16 ``(1, d, h, w)``."""
    out = np.empty((1, *shape), np.int16)
    y, x = (np.linspace(-1, 1, n)[:, None] if k == 0 else np.linspace(-1, 1, n) for k, n in enumerate(shape[1:]))
    for plane, height in zip(out[0], np.linspace(-1, 1, shape[0]), strict=True):
        plane[:] = np.maximum(0, classes - np.floor(np.sqrt(y**2 + x**2 + height**2) * classes / 1.1))
    return np.minimum(out, classes - 1)


def write_study(folder, shape, classes):
    """Write a study of shells and a ``monai-unet`` for it; return the study's file.

    The network has all its layers, and random weights but for a line through it: the brightness goes by the first skip
    connection to the last layers, whose classes are steps of it. A mask without regions would be found in no time,
    and that of random weights alone has a region every few voxels, which no anatomy has.
    """
    import torch

    from inspection_core.geometry import Geometry
    from inspection_core.image import Image
    from inspection_core.io.nifti import write_nifti
    from inspection_core.models import weights
    from inspection_core.models.monai_unet import build, tensors

    torch.manual_seed(0)
    card = card_of(1, classes)
    card = replace(card, preparation=replace(card.preparation, window=(0.0, float(classes))))
    network = build(card)
    first, _, last = network.model
    steps = torch.linspace(-2, 2, classes)
    half = torch.tensor([0.5, 1.0, 0.5])
    with torch.no_grad():
        first.residual.weight[0] = 10.0
        last[0].conv.weight.zero_()
        last[0].conv.weight[0] = half[:, None, None] * half[:, None] * half  # linear between voxels of half the grid
        last[1].conv.unit0.conv.weight.zero_()
        last[1].conv.unit0.conv.weight[:, 0, 1, 1, 1] = 8 * steps - 1  # and the identity beside it: 1
        last[1].conv.unit0.conv.bias.copy_(-4 * steps**2)
    weights.save(folder, card, tensors([network], card))
    study = folder / "study.nii"
    write_nifti(study, Image(shells(shape, classes), Geometry.from_spacing(shape, (1.0, 1.0, 1.0)), card.channels))
    return study


def measure_study(folder, study, device):
    """Run the command ``inspection predict`` in this process; print what it took, from the first import to the end."""
    from inspection_core.cli import app

    cpu = time.process_time()
    results = Path(folder) / "results"
    app(
        ["predict", str(study), "--model", str(folder), "--out", str(results), "--device", device],
        standalone_mode=False,
    )
    (found,) = results.glob("*/findings.json")
    findings = len(json.loads(found.read_text(encoding="utf-8"))["findings"])
    figures = {"cpu_seconds": time.process_time() - cpu, "process_gb": peak_bytes() / 1e9, "findings": findings}
    print(json.dumps(figures))


def run_large(folder, shape, device):
    """All of `predict` on a study of int16, with a stand-in that has no layers, since memory is the point."""
    import torch

    from inspection_core.card import ModelCard
    from inspection_core.device import choose
    from inspection_core.engine import LoadedModel
    from inspection_core.geometry import Geometry
    from inspection_core.image import Image
    from inspection_core.infer import predict

    card, device = ModelCard.load(folder), choose(device)
    classes = 1 + len(card.classes)

    class Levels:
        """The brighter, the higher the class."""

        stride, offset, logits = 1, 0.0, True

        def __call__(self, batch):
            steps = torch.arange(classes, device=batch.device).view(1, -1, 1, 1, 1)
            return (batch[:, :1] * classes).sub(steps).square_().mul_(-4.0)

        def to(self, device):
            pass

    card = card_of(1, classes)
    card = replace(card, preparation=replace(card.preparation, window=(0.0, float(classes))))
    model = LoadedModel(card, Path(folder), Levels(), device)
    whole = shells(shape, classes)
    geometry = Geometry.from_spacing(shape, (1.0, 1.0, 1.0))

    def work():
        found = predict(Image(whole, geometry, card.channels), model)
        if len(found.findings) != classes - 1:
            raise SystemExit(f"Each of {classes - 1} shells is a finding. Got {len(found.findings)} findings.")
        return found.score, found.mask

    return work


def measure_here(who, folder, volume, device, out):
    """Measure one run in this process; print what it took."""
    *shape, _ = sides(volume)
    if who == "large":
        work = run_large(folder, tuple(shape[1:]), device)
    elif who == "monai":
        work = run_monai(folder, ball(shape), device)
    else:
        work = run_ours(folder, ball(shape), "cpu/torch" if who == "torch" else device, who == "skip")
    (score, mask), figures = measured(work)
    figures["process_gb"] = peak_bytes() / 1e9
    if out:
        np.save(Path(out) / f"{who}-score.npy", score)
        np.save(Path(out) / f"{who}-mask.npy", mask)
    print(json.dumps(figures))


def sides(volume):
    """Return channels, depth, height, width and classes."""
    numbers = [int(n) for n in volume.split("x")]
    if len(numbers) != 5:
        raise SystemExit(f"A volume is CHANNELSxDEPTHxHEIGHTxWIDTHxCLASSES. Got {volume}.")
    return numbers


def agreement(folder, who, volume):
    """Return the largest difference of scores and the share of voxels with another class, where neither was skipped."""
    score, mask = (np.load(folder / f"{who}-{kind}.npy", mmap_mode="r") for kind in ("score", "mask"))
    true, labels = (np.load(folder / f"monai-{kind}.npy", mmap_mode="r") for kind in ("score", "mask"))
    worst, other, seen = 0.0, 0, 0
    for z in range(len(score)):
        looked = score[z] != 0 if who == "skip" else np.ones(score[z].shape, bool)
        worst = max(worst, float(np.abs(score[z] - true[z])[looked].max(initial=0.0)))
        other += int((mask[z] != labels[z])[looked].sum())
        seen += int(looked.sum())
    return {"worst": worst, "other": other / max(1, seen), "looked": seen / score.size}


def side_by_side(volume, who, rounds, device, work):
    """Return the runs of one volume, in turn, and how they agree with MONAI's."""
    channels, *_, classes = sides(volume)
    folder = Path(work) / volume
    folder.mkdir()
    make_model(folder, channels, classes)
    runs = {name: [] for name in who}
    for k in range(rounds):
        for name in who[k % len(who) :] + who[: k % len(who)]:  # nobody is always first
            keep = str(folder) if k == 0 else ""
            runs[name].append(in_process(__file__, "--measure", name, folder, volume, device, keep))
            print(f"  {volume} round {k + 1}: {name} {runs[name][-1]}", file=sys.stderr, flush=True)
    ours = [name for name in who if name != "monai" and "monai" in who and "error" not in runs[name][0]]
    agree = {name: agreement(folder, name, volume) for name in ours if (folder / "monai-score.npy").exists()}
    for file in folder.glob("*.npy"):
        file.unlink()
    return {"volume": volume, "runs": runs, "agree": agree}


def volume_table(result):
    base = result["runs"].get("monai", [])
    columns = ["", "seconds", "CPU seconds", "times as fast as MONAI", "by CPU time", "peak memory, MiB", "of MONAI's",
               "largest difference", "other class"]  # fmt: skip
    rows = []
    for name, runs in result["runs"].items():
        if any("error" in r for r in runs):
            rows.append([TITLES[name], next(r["error"] for r in runs if "error" in r)[:80], *[""] * 7])
            continue
        agree = result["agree"].get(name)
        share = f", in the {agree['looked']:.0%} looked at" if agree and agree["looked"] < 1 else ""
        rows.append([
            TITLES[name], spread([r["seconds"] for r in runs], ".1f"), spread([r["cpu_seconds"] for r in runs], ".1f"),
            spread(ratios(base, runs, "seconds")), spread(ratios(base, runs, "cpu_seconds")),
            spread([r["peak_mib"] for r in runs], ".0f"), spread(ratios(runs, base, "peak_mib")),
            f"{agree['worst']:.1e}{share}" if agree else "", f"{agree['other']:.4%}" if agree else "",
        ])  # fmt: skip
    channels, d, h, w, classes = sides(result["volume"])
    return table(f"{channels} x {d} x {h} x {w}, {classes} classes", columns, rows)


def aims(result):
    """Say what was wanted of a volume beside MONAI, and what there is."""
    ours, base = (result["runs"].get(name, []) for name in ("ours", "monai"))
    times, cpu, room = ratios(base, ours, "seconds"), ratios(base, ours, "cpu_seconds"), ratios(ours, base, "peak_mib")
    if not times or "ours" not in result["agree"]:
        return []
    times, cpu, room = (statistics.median(found) for found in (times, cpu, room))
    agree = result["agree"]["ours"]
    said = {
        f"{times:.2f} times MONAI's speed ({TIMES} were wanted; {cpu:.2f} by CPU time)": times >= TIMES,
        f"{room:.2f} of its memory ({ROOM:.2f} at most)": room <= ROOM,
        f"scores within {agree['worst']:.1e} ({SCORE:g})": agree["worst"] <= SCORE,
        f"{agree['other']:.4%} of voxels of another class ({OTHER:.2%})": agree["other"] <= OTHER,
    }
    kept = (text if reached else f"**{text}, which falls short**" for text, reached in said.items())
    channels, d, h, w, classes = sides(result["volume"])
    return [f"{channels} x {d} x {h} x {w}, {classes} classes: {', '.join(kept)}."]


def middle(runs, key):
    return statistics.median(r[key] for r in runs)


def main():
    if sys.argv[1:2] == ["--measure"]:
        return measure_here(*sys.argv[2:])
    if sys.argv[1:2] == ["--measure-study"]:
        return measure_study(*sys.argv[2:])
    parser = arguments("sliding_window", __doc__)
    parser.add_argument("--volumes", default=",".join(VOLUMES), help="with commas")
    parser.add_argument("--growing", default=",".join(GROWING), help="volumes of the plot; empty leaves it out")
    parser.add_argument("--large", default=LARGE, help="the study whose memory is measured; empty leaves it out")
    parser.add_argument("--rows", default=",".join(TITLES), help=f"of the first volume, of {', '.join(TITLES)}")
    parser.add_argument("--other-rows", default="monai,ours", help="of the other volumes, which take minutes a row")
    parser.add_argument("--rounds", type=int, default=3, help="of the first volume; all others have one")
    options = parser.parse_args()
    who, others = options.rows.split(","), options.other_rows.split(",")
    facts, results, growing, large, study = machine(PACKAGES, options.device), [], [], None, None
    with tempfile.TemporaryDirectory(prefix="sliding-") as work:
        for k, volume in enumerate(filter(None, options.volumes.split(","))):
            rows, rounds = (others, 1) if k else (who, options.rounds)
            results.append(side_by_side(volume, rows, rounds, options.device, work))
            notes = [note for one in results for note in aims(one)]  # of a run that is cut short, so much is there
            write_json(options.out, facts, [volume_table(r) for r in results], {"volumes": results}, notes)
        for volume in filter(None, options.growing.split(",")):
            pair = [name for name in ("monai", "ours") if name in who]
            growing.append(side_by_side(volume, pair, 1, options.device, work))
        if options.large:
            folder = Path(work) / "large"
            folder.mkdir()
            make_model(folder, 1, sides(options.large)[-1])
            large = in_process(__file__, "--measure", "large", folder, options.large, options.device, "")
            _, *shape, classes = sides(options.large)
            path = write_study(folder / "study", tuple(shape), classes)
            study = in_process(__file__, "--measure-study", folder / "study", path, options.device)
    notes, plots = [note for one in results for note in aims(one)], []
    for what, one in (
        ("`predict` with a stand-in without layers", large),
        ("`inspection predict` with the network", study),
    ):
        if one and "error" not in one:
            _, d, h, w, classes = sides(options.large)
            notes.append(
                f"A study of {d} x {h} x {w}, {classes} classes, {what}: {one['process_gb']:.2f} GB of resident memory "
                f"at most, libraries and the study included, {one['cpu_seconds']:.0f} s of CPU time."
            )
        elif one:
            notes.append(f"A large study, {what}, failed: {one['error']}")
    if growing:
        for key, label, what in (("cpu_seconds", "CPU seconds", "time"), ("peak_mib", "peak memory, MiB", "memory")):
            lines = {
                TITLES[name]: [(np.prod(sides(g["volume"])[1:4]) / 1e6, middle(g["runs"][name], key)) for g in growing]
                for name in growing[0]["runs"]
                if all("error" not in r for g in growing for r in g["runs"][name])
            }
            plots.append(plot(f"sliding-window-{what}", "million voxels, 4 classes", label, lines))
    runs = {"volumes": results, "growing": growing, "large": large, "study": study}
    result = write_json(options.out, facts, [volume_table(r) for r in results], runs, notes, plots)
    print(render(result))
    done = [r for g in (*results, *growing) for runs in g["runs"].values() for r in runs]
    done += [one for one in (large, study) if one]
    return 1 if any("error" in r for r in done) else 0


if __name__ == "__main__":
    sys.exit(main())
