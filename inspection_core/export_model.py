"""A model that segments, written as TorchScript, ONNX or OpenVINO, and compared with itself on real images.

The network is traced for one window of a fixed size; preparation, windows, blending and restoring stay what the card
says. So the folder that is written is a model like any other, and what is compared is the whole way through: `predict`
with the one and with the other. Beyond the tolerance nothing is left.
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from inspection_core.card import ModelCard, Preparation
from inspection_core.device import Device
from inspection_core.engine import Engine, LoadedModel
from inspection_core.errors import InspectionError, ModelError, UsageError
from inspection_core.infer import predict
from inspection_core.inputs import Choices, list_inputs, open_input
from inspection_core.io.atomic import write_text
from inspection_core.io.results import dump
from inspection_core.models.exported import make
from inspection_core.studies import for_channels

if TYPE_CHECKING:
    import torch

TARGETS = ("torchscript", "onnx", "openvino")
TOLERANCE = 1e-3
"""Largest difference of any voxel's score that is let through."""
MASK_TOLERANCE = 1e-3
"""Largest share of voxels of any image with another label that is let through."""
REPORT = "parity.json"
OPSET = 17


@dataclass(frozen=True)
class Compared:
    """One image through both models.

    Parameters
    ----------
    name
        The image's label.
    score
        Largest difference of a voxel's score.
    mask
        Share of voxels with another label.
    verdict
        Whether both give the same.
    """

    name: str
    score: float
    mask: float
    verdict: bool


@dataclass(frozen=True)
class Export:
    """What was written.

    Parameters
    ----------
    folder, card
        The new model.
    compared
        A row an image.
    warnings
        For the user.
    """

    folder: Path
    card: ModelCard
    compared: tuple[Compared, ...]
    warnings: tuple[str, ...] = ()


def export(
    model: LoadedModel,
    target: str,
    out: Path,
    images: Sequence[Path],
    *,
    tolerance: float = TOLERANCE,
    progress: Callable[[int, int], None] | None = None,
) -> Export:
    """Write a model in another form, and compare both on images.

    Parameters
    ----------
    model
        On the CPU; it segments, and looks at slices or volumes.
    target
        One of `TARGETS`.
    out
        New folder.
    images
        Real images or scans, as for ``inspection predict``.
    tolerance
        Largest difference of any voxel's score that is let through.
    progress
        Called with images done and images in all.

    Raises
    ------
    UsageError
        If the target is unknown, the folder is not empty, or there are no images.
    ModelError
        If the model cannot be exported, or differs by more than the tolerance.
    """
    if target not in TARGETS:
        raise UsageError(f"A model is exported to one of {', '.join(TARGETS)}. Got {target!r}.")
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise UsageError(f"The tolerance is a number from 0. Got {tolerance}.")
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise UsageError(f"{out} is not empty. Give a new folder with --out.")
    card = exported_card(model)
    listing = for_channels(list_inputs(images, Choices()), card.channels, Choices())
    if not listing.inputs:
        raise UsageError("An export is compared on real images. Found none; give some with --images.")
    scratch = out.with_name(f".{out.name}.export")
    try:
        file = write_network(model, card, target, scratch)
        made = make(out, card, file)
        twin = Engine("cpu").load(out)
        rows: list[Compared] = []
        notes: list[str] = []
        for done, item in enumerate(listing.inputs, start=1):
            try:
                image = open_input(item, card.channels, Choices()).image
            except InspectionError as error:
                notes.append(f"not compared: {error}")
                continue
            one, other = predict(image, model), predict(image, twin)
            rows.append(
                Compared(
                    item.label,
                    float(np.abs(one.score - other.score).max()),
                    float((one.mask != other.mask).mean()),
                    one.verdict == other.verdict,
                )
            )
            if progress:
                progress(done, len(listing.inputs))
        if not rows:
            raise UsageError(f"None of the images could be read, so nothing was compared. {notes[0]}")
        _refuse(rows, target, tolerance)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    worst = {
        "parity_images": len(rows),
        "parity_score": max(r.score for r in rows),
        "parity_mask": max(r.mask for r in rows),
    }
    made = replace(made, metrics={**made.metrics, **worst})
    write_text(out / "card.toml", made.to_toml())
    write_text(out / REPORT, dump(report(rows, model.card, made, target, tolerance)))
    return Export(out, made, tuple(rows), tuple(notes))


def report(
    rows: Sequence[Compared], before: ModelCard, after: ModelCard, target: str, tolerance: float
) -> Mapping[str, Any]:
    """Return the comparison as plain data."""
    return {
        "schema_version": 1,
        "to": target,
        "model": {"id": before.id, "version": before.version, "sha256": before.weights_sha256},
        "exported_sha256": after.weights_sha256,
        "tolerance": {"score": tolerance, "mask": MASK_TOLERANCE},
        "images": [
            {"name": r.name, "score_difference": r.score, "mask_share": r.mask, "same_verdict": r.verdict} for r in rows
        ],
    }


def exported_card(model: LoadedModel) -> ModelCard:
    """Return the card of the export: the same, with windows of a fixed size and the network's own probabilities.

    Raises
    ------
    ModelError
        If the model is none that can be exported.
    """
    card = model.card
    if model.hosted or card.task != "segmentation" or card.preparation.view == "image":
        what = "of another maker" if model.hosted else f"for {card.task} with the view {card.preparation.view!r}"
        raise ModelError(
            f"Models that segment slices or volumes can be exported. {card.id} is one {what}, which cannot yet."
        )
    preparation = card.preparation
    return replace(
        card,
        preparation=replace(preparation, window_size=window(preparation)),
        parameters={
            "activation": "none",
            "stride": model.predictor.stride,
            "offset": float(model.predictor.offset),
            "exported_from": card.architecture,
        },
        training={**card.training, "exported_sha256": card.weights_sha256},
    )


def window(preparation: Preparation) -> tuple[int, ...]:
    """Return the fixed size of a window: the card's own, or a whole tile."""
    m = preparation.multiple
    side = max(m, preparation.tile // m * m)
    return preparation.window_size or (side,) * (3 if preparation.view == "volume" else 2)


def write_network(model: LoadedModel, card: ModelCard, target: str, folder: Path) -> Path:
    """Trace a model's network for one window and write it; return the file.

    Raises
    ------
    ModelError
        If it cannot be traced or written, or the target's package is not installed.
    """
    import torch

    class Network(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return cast("Callable[[torch.Tensor], torch.Tensor]", model.predictor)(batch)

    _installed(target)
    channels = len(card.channels) * (2 * card.preparation.neighbours + 1)
    example = torch.rand((1, channels, *card.preparation.window_size), generator=torch.Generator().manual_seed(0))
    model.predictor.to(Device("cpu"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own plans for its tracer
            if target == "torchscript":
                traced = cast("Any", torch.jit).trace(Network().eval(), (example,), check_trace=False)
                traced.save(str(folder / "model.ts"))
                return folder / "model.ts"
            torch.onnx.export(
                Network().eval(), (example,), str(folder / "model.onnx"), input_names=["image"],
                output_names=["probabilities"], opset_version=OPSET, dynamo=False,
            )  # fmt: skip
            if target == "openvino":
                import openvino

                read = openvino.Core().read_model(folder / "model.onnx")
                openvino.save_model(read, folder / "model.xml", compress_to_fp16=False)
                return folder / "model.xml"
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        line = " ".join(str(error).split())[:300]
        raise ModelError(f"The network of {card.id} cannot be written as {target}: {line}") from error
    return folder / "model.onnx"


def _installed(target: str) -> None:
    from importlib.util import find_spec

    needed = {"torchscript": (), "onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}[target]
    if missing := [name for name in needed if find_spec(name) is None]:
        raise ModelError(f'Export to {target} needs {", ".join(missing)}: pip install "inspection-suite[export]".')


def _refuse(rows: Sequence[Compared], target: str, tolerance: float) -> None:
    worst = max(rows, key=lambda r: (r.score > tolerance, r.mask > MASK_TOLERANCE, not r.verdict, r.score))
    if worst.score > tolerance or worst.mask > MASK_TOLERANCE or not worst.verdict:
        raise ModelError(
            f"The export to {target} does not do what the model does: on {worst.name} a score differs by "
            f"{worst.score:.2g} ({tolerance:g} is let through), {worst.mask:.2%} of voxels have another label, and the "
            f"verdict is {'the same' if worst.verdict else 'another'}. Nothing was written."
        )
