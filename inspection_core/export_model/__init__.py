"""A model, written as TorchScript, ONNX, OpenVINO or as a bundle for an edge device, and compared with itself.

Preparation, windows, blending and restoring stay what the card says. Of a model that segments, the network takes the
place of the weights. Of a ``patch-memory``, the backbone does; the memory stands beside it. Either folder is a model
like any other, and what is compared is the whole way through: `predict` with the one and with the other, on real
images. Beyond the tolerance nothing is left.
"""

from __future__ import annotations

import contextlib
import copy
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from inspection_core.card import ModelCard, Preparation
from inspection_core.device import Device
from inspection_core.engine import Engine, LoadedModel
from inspection_core.errors import InspectionError, ModelError, UsageError
from inspection_core.export_model import edge
from inspection_core.export_model.network import (
    PRECISIONS,
    Network,
    SizeError,
    check_precision,
    files_of,
    installed,
    write_network,
)
from inspection_core.export_model.parity import (
    MASK_TOLERANCES,
    REPORT,
    TOLERANCES,
    Compared,
    compare,
    difference,
    refuse,
    report,
)
from inspection_core.export_model.precision import Listener, inputs_of
from inspection_core.image import Image
from inspection_core.infer import predict
from inspection_core.inputs import Choices, Input, list_inputs, open_input
from inspection_core.io.atomic import write_text
from inspection_core.io.results import dump
from inspection_core.models import weights
from inspection_core.models.compiled import openvino_core
from inspection_core.models.exported import make
from inspection_core.prediction import Prediction
from inspection_core.studies import for_channels, stacks

TARGETS = (*PRECISIONS, "edge")

__all__ = ["PRECISIONS", "REPORT", "TARGETS", "TOLERANCES", "Compared", "Export", "export"]


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
    precision: str = "fp32",
    calibrate: Sequence[Path] = (),
    tolerance: float | None = None,
    allow_difference: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Export:
    """Write a model in another form, and compare both on images.

    Parameters
    ----------
    model
        On the CPU: a ``patch-memory``, or one that segments slices or volumes.
    target
        One of `TARGETS`.
    out
        New folder.
    images
        Real images or scans, as for ``inspection predict``. Not given, those that the model was fitted on are taken
        where they still are.
    precision
        One of those that `PRECISIONS` has for the target; ``"edge"`` has those of ONNX.
    calibrate
        Good images or scans that int8 takes its ranges from. Not given, those that the model was fitted on are taken
        where they still are.
    tolerance
        Largest difference of a score that is let through; see `Compared`. Not given, that of `TOLERANCES`.
    allow_difference
        Keep an export that differs by more, and say so on its card.
    progress
        Called with images done and images in all.

    Raises
    ------
    UsageError
        If an option makes no sense, the folder is not empty, or there are no images.
    ModelError
        If the model cannot be exported, or differs by more than is let through.
    """
    if target not in TARGETS:
        raise UsageError(f"A model is exported to one of {', '.join(TARGETS)}. Got {target!r}.")
    form = "onnx" if target == "edge" else target
    check_precision(form, precision)
    tolerance = TOLERANCES[precision] if tolerance is None else tolerance
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise UsageError(f"The tolerance is a number from 0. Got {tolerance}.")
    new = not out.exists()
    if not new and any(out.iterdir() if out.is_dir() else [out]):
        raise UsageError(f"{out} is not empty. Give a new folder with --out.")
    check(model)
    if target == "edge":
        edge.check(model)
    installed(form)
    todo = _inputs(images or _fitted_on(model.card), model.card)
    if not todo:
        raise UsageError("An export is compared on real images. Found none; give some with --images.")
    notes: list[str] = []
    out = out.absolute() if not out.name else out  # `.` has no name to call a neighbour after
    scratch = out.with_name(f".{out.name}.export")
    try:
        made = _write(model, form, precision, out, scratch, calibrate)
        if precision == "bf16" and not _has_bfloat16():
            notes.append(
                "this processor has no bfloat16, so it computed in float32: the differences found say nothing of "
                "processors that have it. Export there, or take fp16"
            )
        twin = edge.bundle(out, made, tolerance, todo, scratch) if target == "edge" else _twin(out, tolerance)
        rows: list[Compared] = []
        for done, item in enumerate(todo, start=1):
            try:
                image = open_input(item, model.card.channels, Choices()).image
            except InspectionError as error:
                notes.append(f"not compared: {error}")
                continue
            rows.append(twin(item, image, predict(image, model)))
            if progress:
                progress(done, len(todo))
        if not rows:
            raise UsageError(f"None of the images could be read, so nothing was compared. {notes[0]}")
        most = MASK_TOLERANCES[precision]
        said = difference(rows, target if precision == "fp32" else f"{target} in {precision}", tolerance, most)
        if not allow_difference:
            refuse(said)
    except BaseException:
        _take_back(out, new)
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    worst = {
        "parity_images": len(rows),
        "parity_score": max(r.score for r in rows),
        "parity_mask": max(r.mask for r in rows),
        "parity_verdicts": sum(r.verdicts[0] != r.verdicts[1] for r in rows),
    }
    made = replace(made, metrics={**made.metrics, **worst})
    if said:
        notes.append(said)
        made = replace(made, limits=" ".join(filter(None, [made.limits, said])))
    write_text(out / "card.toml", made.to_toml())
    allowed = {"score": tolerance, "mask": most}
    how = {"to": target, "precision": precision}
    folders = (model.folder, out)
    write_text(out / REPORT, dump(report(rows, (model.card, made), folders, how, allowed, said)))
    return Export(out, made, tuple(rows), tuple(notes))


def _take_back(out: Path, new: bool) -> None:
    """Remove what was written, and the folder itself where it was not there before."""
    with contextlib.suppress(OSError):
        for file in out.iterdir():
            file.unlink()
        if new:
            out.rmdir()


def check(model: LoadedModel) -> None:
    """Refuse models that cannot be exported.

    Raises
    ------
    ModelError
        If the model is of another maker, an export itself, or of a kind that no way is known for.
    """
    card = model.card
    if "exported_from" in card.parameters:
        raise ModelError(f"{card.id} is an export already. Export the model that it was made from.")
    if model.hosted or not (card.architecture == "patch-memory" or card.task == "segmentation") or (
        card.task == "segmentation" and card.preparation.view == "image"
    ):  # fmt: skip
        what = "of another maker" if model.hosted else f"for {card.task} with the view {card.preparation.view!r}"
        raise ModelError(
            "A patch-memory, and models that segment slices or volumes, can be exported. "
            f"{card.id} is a {card.architecture}, {what}, which cannot."
        )


def window(preparation: Preparation) -> tuple[int, ...]:
    """Return the fixed size of a window: the card's own, or a whole tile."""
    m = preparation.multiple
    side = max(m, preparation.tile // m * m)
    return preparation.window_size or (side,) * (3 if preparation.view == "volume" else 2)


def _write(
    model: LoadedModel, form: str, precision: str, out: Path, scratch: Path, calibrate: Sequence[Path]
) -> ModelCard:
    """Write a model's folder; return its card."""
    model.predictor.to(Device("cpu"))
    if model.card.architecture == "patch-memory":
        return _write_memory(model, form, precision, out, scratch, calibrate)
    card, predictor = model.card, model.predictor
    preparation = card.preparation
    channels = len(card.channels) * (2 * preparation.neighbours + 1)
    free = 0 if preparation.window_size else preparation.multiple
    samples = _samples(model, precision, calibrate)
    given = cast("Callable[[Any], Any]", predictor)
    call = (lambda batch: given(batch).softmax(dim=1)) if getattr(predictor, "logits", False) else given
    shape = (channels, *(preparation.window_size or (2 * free,) * len(window(preparation))))
    network = Network(card.id, call, shape, ("probabilities",), free)
    card = replace(
        card,
        parameters={
            "activation": "none",
            "stride": predictor.stride,
            "offset": float(predictor.offset),
            "precision": precision,
            "spread": model.spread,
            "exported_from": card.architecture,
        },
        training={**card.training, "exported_sha256": card.weights_sha256},
    )
    try:
        file = write_network(network, form, precision, scratch, samples)
    except SizeError:
        if precision == "int8":
            raise
        # A network of one size gets windows of one size, which smaller images are padded to.
        size = window(preparation)
        card = replace(card, preparation=replace(preparation, window_size=size))
        file = write_network(replace(network, shape=(channels, *size), multiple=0), form, precision, scratch, samples)
    return make(out, card, file)


def _write_memory(
    model: LoadedModel, form: str, precision: str, out: Path, scratch: Path, calibrate: Sequence[Path]
) -> ModelCard:
    import torch

    from inspection_core.models.backbone_file import described, hashes
    from inspection_core.models.patch_memory import PatchMemory

    predictor = cast("PatchMemory", model.predictor)
    backbone, card = predictor.describer.backbone, model.card
    samples = _samples(model, precision, calibrate)
    side = 4 * backbone.multiple
    levels = [f"level{k}" for k in range(len(backbone.levels(torch.zeros((1, 3, side, side)))))]
    network = Network(card.id, backbone.levels, (3, side, side), tuple(levels), backbone.multiple)
    files = files_of(write_network(network, form, precision, scratch, samples))
    tensors = {k: t for k, t in predictor.tensors().items() if not k.startswith(("backbone.", "graph."))}
    if precision != "fp32":
        tensors = {k: t.half() if k.startswith("memory.") else t for k, t in tensors.items()}
    out.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.move(file, out / file.name)
    card = replace(
        card,
        parameters={
            **card.parameters,
            **described(backbone),
            "precision": precision,
            "exported_from": card.architecture,
        },
        training={**card.training, "exported_sha256": card.weights_sha256},
    )
    return weights.save(out, card, {**tensors, **hashes([out / file.name for file in files])})


def _samples(model: LoadedModel, precision: str, calibrate: Sequence[Path]) -> list[Any]:
    """Return what the network is given for images like those to come; nothing where nobody asks for it."""
    if precision != "int8":
        return []
    images = _inputs(calibrate or _fitted_on(model.card), model.card)
    if model.card.architecture == "patch-memory":
        from inspection_core.models.patch_memory import PatchMemory
        from inspection_core.models.views import Describer

        own = cast(PatchMemory, model.predictor).describer
        listener = Listener(own.backbone)
        predictor = copy.copy(model.predictor)
        cast("Any", predictor).describer = Describer(cast("Any", listener), own.views)
    else:
        listener = predictor = cast("Any", Listener(model.predictor))
    listened = LoadedModel(model.card, model.folder, predictor, Device("cpu"))
    return inputs_of(listener, listened, images)


def _fitted_on(card: ModelCard) -> list[Path]:
    """Return the good images that a model was fitted on, where they still are."""
    folder = Path(str(card.training.get("folder", "")))
    names = cast("Sequence[str]", card.training.get("names", ()))
    return [folder / name for name in names if (folder / name).is_file()]


def _inputs(paths: Sequence[Path], card: ModelCard) -> Sequence[Input]:
    if not paths:
        return ()
    listing = list_inputs(paths, Choices())
    listing = stacks(listing) if card.preparation.view != "image" else listing
    return for_channels(listing, card.channels, Choices()).inputs


def _twin(folder: Path, tolerance: float) -> edge.Twin:
    twin = Engine("cpu").load(folder)

    def look(item: Input, image: Image, one: Prediction) -> Compared:
        return compare(item.label, one, predict(image, twin), twin.card, tolerance)

    return look


def _has_bfloat16() -> bool:
    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
