"""What the input check lets pass and what it stops, on real data: ``python benchmarks/accuracy/input_check.py DATA``.

DATA is the folder of the shared real images. Fitted on the training patients of ``medical/lgg2d``; the false-alarm rate
comes from patients left out of all fitting, ten folds, threshold included, and from the validation patients. A lone
channel is given to all channels of the card, so that the number of channels gives nothing away but their likeness.
With ``--model NAME`` inputs are prepared as for that model, and its card's own check is asked too.

``--order`` does the same for the check of the order of channels, with every order of the complete studies of training
and validation, left out of all fitting. ``--write FOLDER`` fits it on these patients and puts it on the card there, as
``calibration.order``; nothing else of the card changes.
"""

import argparse
import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from inspection_core.card import CARD_NAME, ModelCard, Policy, Preparation
from inspection_core.cases import find_cases, read_slices
from inspection_core.channel_order import channel_features, fit_channel_order, look_alike
from inspection_core.engine import Engine
from inspection_core.errors import InspectionError
from inspection_core.geometry import Geometry
from inspection_core.image import Image
from inspection_core.input_check import distance, fit_input_check, input_features
from inspection_core.io.atomic import write_text
from inspection_core.io.raster import read_raster
from inspection_core.io.scans import read_scan
from inspection_core.prepare import prepare

CHANNELS = ("pre", "flair", "post")
FOLDS = 10


PLAIN = Preparation(view="slices", short_side=0, multiple=32, tile=256, normalise="percentile")


def card_of(channels: tuple[str, ...], preparation: Preparation) -> ModelCard:
    return ModelCard("check", "1", "none", "segmentation", channels, "none", ("tumour",), preparation=preparation,
                     policy=Policy(kind="band"))  # fmt: skip


def features(
    array: np.ndarray, geometry: Geometry, channels: tuple[str, ...], preparation: Preparation
) -> dict[str, float]:
    if len(channels) == 1:
        array = array[1:2] if len(array) == len(CHANNELS) else array[:1]
    elif len(array) == 1:
        array = np.repeat(array, len(channels), axis=0)
    card = card_of(channels, preparation)
    prepared = prepare(Image(array, geometry, channels), card)
    shape = prepared.shape if prepared.placement is None else prepared.placement.resized
    return input_features(prepared.pixels, shape)


def described(image: Image, preparation: Preparation) -> tuple[dict[str, float], ...]:
    prepared = prepare(Image(image.array, image.geometry, CHANNELS), card_of(CHANNELS, preparation))
    shape = prepared.shape if prepared.placement is None else prepared.placement.resized
    return channel_features(prepared.pixels, shape)


def order(images: list[Image], preparation: Preparation, false_alarms: float) -> list[tuple[dict[str, float], ...]]:
    """Print how often each order of the channels is called exchanged by a check that did not see the patient."""
    known = [described(image, preparation) for image in images]
    # A study with a copy for a missing channel is the same in two orders.
    complete = [all(not np.array_equal(a, b) for a, b in itertools.combinations(i.array, 2)) for i in images]
    fold = np.random.default_rng(1).permutation(len(known)) % FOLDS
    called: dict[tuple[int, ...], int] = dict.fromkeys(itertools.permutations(range(len(CHANNELS))), 0)
    alarms = 0
    for k in range(FOLDS):
        check = fit_channel_order([s for s, n in zip(known, fold, strict=True) if n != k], false_alarms)
        for study, whole in ((s, c) for s, c, n in zip(known, complete, fold, strict=True) if n == k):
            alarms += look_alike(study, check)[0] > check.threshold
            for p in called if whole else ():
                called[p] += look_alike([study[i] for i in p], check)[0] > check.threshold
    print(f"order of channels, {len(known)} patients of train and val, left out of all fitting")
    print(f"  as they are, those with stand-ins too        {alarms}/{len(known)}")
    for p, count in called.items():
        print(f"  {', '.join(CHANNELS[i] for i in p):20} given as {', '.join(CHANNELS)}  {count}/{sum(complete)}")
    return known


def patients(folder: Path) -> Iterator[Image]:
    for case in find_cases(folder):
        yield read_slices(case.images, CHANNELS)


def others(data: Path) -> Iterator[tuple[str, Image]]:
    medical = data / "medical"
    globs = {
        "hippocampus crops": sorted((medical / "hippocampus/val/images").glob("*.nii.gz")),
        "breast MR": sorted((medical / "tumour3d").rglob("breast1_image.nii.gz")),
        "brain MR, T1 post-contrast": sorted((medical / "tumour3d").rglob("brain1_image.nii.gz")),
        "DICOM series": sorted((medical / "dicom/series").glob("*/ref/*.nii*")),
        "odd NIfTI files": sorted(medical.glob("nifti_odd/*.nii*")),
    }
    for name, paths in globs.items():
        for path in paths:
            try:
                image = read_scan(path)
            except InspectionError:
                continue
            yield name, Image(image.array[:1], image.geometry, image.channels[:1])
    for name, place in (("solar cells", "pv_el"), ("magnetic tiles", "magnetic_tile")):
        for path in sorted((data / "industrial" / place).rglob("test/good/*.*"))[:10]:
            yield name, read_raster(path)


def phantom() -> Image:
    z, y, x = np.ogrid[:30, :256, :256]
    ball = ((y - 128) / 90) ** 2 + ((x - 128) / 70) ** 2 + ((z - 15) / 14) ** 2 < 1
    spot = ((y - 100) / 12) ** 2 + ((x - 150) / 12) ** 2 + ((z - 15) / 3) ** 2 < 1
    noise = np.random.default_rng(0).normal(0, 3, (3, *ball.shape))
    array = np.stack([ball * 100 + spot * k for k in (0, 80, 40)]) + noise
    return Image(array.clip(0).astype(np.float32), Geometry.pixels(ball.shape), CHANNELS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=os.environ.get("INSPECTION_DATA", "../shared/data"))
    parser.add_argument("--false-alarms", type=float, default=0.05)
    parser.add_argument("--model", help="name or folder of a model whose preparation and check are looked at")
    parser.add_argument("--order", action="store_true", help="look at the order of channels, and at nothing else")
    parser.add_argument(
        "--write", type=Path, metavar="FOLDER", help="with --order: the model whose card gets the check"
    )
    options = parser.parse_args()
    options.data = Path(options.data)
    card = Engine("cpu").load(options.model).card if options.model else None
    preparation = card.preparation if card else PLAIN
    lgg = options.data / "medical" / "lgg2d"
    if options.order:
        known = order([*patients(lgg / "train"), *patients(lgg / "val")], preparation, options.false_alarms)
        if options.write:
            own = ModelCard.load(options.write)
            check = fit_channel_order(known, options.false_alarms)
            own = replace(own, calibration=replace(own.calibration, order=check))
            write_text(options.write / CARD_NAME, own.to_toml())
            print(f"wrote calibration.order: threshold {check.threshold:.3g}, stated rate {check.false_alarms:.3f}")
        return
    groups: dict[str, list[Image]] = {}
    for name, image in others(options.data):
        groups.setdefault(name, []).append(image)
    groups["ellipsoid phantom"] = [phantom()]
    train, val = list(patients(lgg / "train")), list(patients(lgg / "val"))
    groups["val, times 7 plus 100"] = [Image(i.array.astype(np.float32) * 7 + 100, i.geometry, i.channels) for i in val]
    groups["val, every third slice"] = [
        Image(i.array[:, ::3], Geometry.pixels(i.array[:, ::3].shape[1:]), i.channels) for i in val
    ]
    groups["val, the middle slice alone"] = [
        Image(i.array[:, [n // 2]], Geometry.pixels((1, *i.array.shape[2:])), i.channels)
        for i in val
        for n in [i.array.shape[1]]
    ]
    groups["val, channels in another order"] = [Image(i.array[[1, 2, 0]], i.geometry, i.channels) for i in val]
    for channels in (CHANNELS, ("flair",)):
        known = [features(i.array, i.geometry, channels, preparation) for i in train]
        check = fit_input_check(known, options.false_alarms)
        fold = np.random.default_rng(1).permutation(len(known)) % FOLDS
        flagged = 0
        for k in range(FOLDS):
            part = fit_input_check([f for f, n in zip(known, fold, strict=True) if n != k], options.false_alarms)
            flagged += sum(distance(f, part) > part.threshold for f, n in zip(known, fold, strict=True) if n == k)
        print(f"channels {', '.join(channels)}: {len(check.features)} features, threshold {check.threshold:.2f}, "
              f"stated rate {check.false_alarms:.3f}")  # fmt: skip
        print(f"  train, left out of all fitting   {flagged}/{len(known)}")
        val_far = [distance(features(i.array, i.geometry, channels, preparation), check) for i in val]
        print(f"  val                              {sum(d > check.threshold for d in val_far)}/{len(val)}")
        if card and len(channels) == len(card.channels):
            check = card.calibration.inputs
            print(f"  from here on the card's own check, of {check.images} studies, rate {check.false_alarms:.3f}")
        for name, images in groups.items():
            if len(channels) == 1 and name == "val, channels in another order":
                continue
            far = [distance(features(i.array, i.geometry, channels, preparation), check) for i in images]
            print(
                f"  {name:32} {sum(d > check.threshold for d in far)}/{len(far)}  median distance {np.median(far):.1f}"
            )


if __name__ == "__main__":
    main()
