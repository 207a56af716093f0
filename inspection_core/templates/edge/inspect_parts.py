#!/usr/bin/env python3
"""Inspect pictures with the model beside this file. Needs numpy, Pillow and ONNX Runtime, and nothing else.

    python inspect_parts.py PICTURE_OR_FOLDER...

Prints one JSON object a picture: path, status, score, p-value, verdict and findings. A picture that cannot be read gets
a line with status "failed" and the reason, and the next one follows. Nothing is written but what --out and --maps ask
for. It ends with 0, with 1 if a picture failed or a result could not be written, and with 2 if nothing could be
started.

The arithmetic is that of the inspection suite, in numpy: scores agree within the tolerance in edge.json.
For research and inspection. Not a medical device.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import sys
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

try:
    import numpy as np
    import onnxruntime
    import PIL.Image
    import PIL.ImageOps
except ImportError as error:
    print(f"error: {error}. Install what requirements.txt beside this file names.", file=sys.stderr)
    sys.exit(2)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TextIO

    from numpy.typing import NDArray

    Array = NDArray[Any]

FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jfif"),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
}
LUMA = (0.299, 0.587, 0.114)
MAX_SIDE, MAX_PIXELS = 20_000, 400_000_000
MAX_ASPECT = 16
BLOCK = 1024
CHUNKS = 8  # candidates, one of each chunk of the references


class PictureError(Exception):
    """A picture that cannot be inspected, with the reason in one line."""


# Reading


def read(path: Path) -> Array:
    """Return a picture as ``(C, y, x)``: 1 or 3 channels, in the type that it is stored in."""
    if not path.is_file():
        raise PictureError("there is no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with PIL.Image.open(path, formats=list(FORMATS)) as image:
                return _pixels(image, path)
    except PictureError:
        raise
    except PIL.UnidentifiedImageError:
        raise PictureError("is no PNG, JPEG, TIFF, BMP or WebP picture") from None
    except MemoryError:
        raise
    except PermissionError:
        raise PictureError("may not be read; look at its permissions") from None
    except Exception as error:  # decoders raise whatever they come upon
        raise PictureError(f"is damaged: {' '.join(str(error).split())[:160]}") from error


def _pixels(image: Any, path: Path) -> Array:
    if path.suffix and path.suffix.lower() not in FORMATS[image.format]:
        raise PictureError(f"is a {image.format} file by its content, not what its suffix says; rename it")
    if max(image.size) > MAX_SIDE or image.size[0] * image.size[1] > MAX_PIXELS:
        raise PictureError(f"has {image.size[0]} x {image.size[1]} pixels, at most {MAX_SIDE} a side are read")
    if getattr(image, "n_frames", 1) > 1:
        raise PictureError("holds several pictures; save them one by one")
    if image.format == "TIFF" and image.mode == "L" and 2 in image.tag_v2.get(339, ()):
        raise PictureError("holds int8, which Pillow takes for uint8; convert it")
    if image.mode not in ("I", "I;16", "I;16B", "I;16L", "F") and _bits(image, path) > 8:
        raise PictureError("has colours of more than 8 bits, which this runner would cut; convert it")
    image.load()
    image = PIL.ImageOps.exif_transpose(image)
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
        grey = bool((palette == palette[:, :1]).all())
        pixels = np.asarray(image.convert("RGB"))
        return np.ascontiguousarray(np.moveaxis(pixels[..., :1] if grey else pixels, -1, 0))
    if image.mode == "1":
        image = image.convert("L")
    if image.mode == "I" and image.format == "PNG":  # older Pillow has 16 bits so
        image = np.asarray(image).astype(np.uint16)
    elif image.mode not in ("L", "LA", "RGB", "RGBA", "RGBX", "I;16", "I;16B", "I;16L", "F"):
        raise PictureError(f"is of the kind {image.mode}; save it as grey or RGB")
    pixels = np.atleast_3d(np.asarray(image))
    if pixels.shape[2] in (2, 4):  # without alpha
        pixels = pixels[..., :-1]
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise PictureError("holds NaN or infinity, which no score can come from")
    return np.moveaxis(pixels.astype(pixels.dtype.newbyteorder("=")), -1, 0)


def _bits(image: Any, path: Path) -> int:
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24]
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(258, (8,))))
    return 8


def list_pictures(given: Sequence[Path]) -> Iterator[Path]:
    """Give the files, and those under the folders: img2 before img10, hidden ones left out."""
    for path in given:
        if not path.is_dir():
            yield path
            continue
        known = [p for p in path.rglob("*") if p.suffix.lower() in sum(FORMATS.values(), ())]
        inside = [p.relative_to(path) for p in known if not p.is_dir()]
        seen = [p for p in inside if not any(part.startswith(".") for part in p.parts)]
        yield from (path / p for p in sorted(seen, key=_natural))


def _natural(path: Path) -> list[Any]:
    return [
        ([int(s) if s.isdigit() else s for s in re.split(r"([0-9]+)", part.casefold())], part) for part in path.parts
    ]


# Geometry: from pixels to the network's input, and from cells to pixels


def prepare(pixels: Array, card: dict[str, Any]) -> Array:
    """Return float32 ``(C, h, w)`` at the inference size, the card's intensity window mapped to 0 and 1."""
    preparation = card["preparation"]
    kind = preparation["dtype"]
    if kind and str(pixels.dtype) != kind:
        raise PictureError(f"holds {pixels.dtype}, and the model was made from {kind} pictures; convert it")
    if len(card["channels"]) == 1 and len(pixels) == 3:
        same = (pixels[0] == pixels[1]).all() and (pixels[0] == pixels[2]).all()
        grey = np.tensordot(np.asarray(LUMA, np.float32), pixels.astype(np.float32), axes=1)
        pixels = pixels[:1] if same else grey[None]
    elif len(card["channels"]) == 3 and len(pixels) == 1:
        pixels = np.broadcast_to(pixels, (3, *pixels.shape[1:]))
    size = inference_size(pixels.shape[1:], preparation)
    low, high = (np.float32(v) for v in preparation["window"])
    bytes_stay = preparation["resize"] == "uint8" and pixels.dtype == np.uint8
    pixels = shrink(pixels if bytes_stay else pixels.astype(np.float32), size)
    return (pixels.astype(np.float32) - low) / np.float32(high - low)


def inference_size(shape: Sequence[int], preparation: dict[str, Any]) -> tuple[int, int]:
    """Return the size ``(h, w)`` that a picture is inspected at."""
    y, x = shape
    if preparation["short_side"]:
        factor = preparation["short_side"] / min(y, x)
        factor = min(factor, max(1.0, MAX_ASPECT * preparation["short_side"] / max(y, x)))
    elif preparation["side"]:
        low, high = preparation["scales"]
        factor = max(preparation["side"] / math.sqrt(y * x), low)
        factor = factor if high is None else min(factor, high)
    else:
        factor = preparation["scale"]
    m = preparation["multiple"]
    return max(m, round(y * factor / m) * m), max(m, round(x * factor / m) * m)


def shrink(planes: Array, size: Sequence[int]) -> Array:
    """Resize the last two axes bilinearly with anti-aliasing: a triangle as wide as the step, or one pixel at least.

    Bytes stay bytes: each axis in whole numbers, with weights of 16 bits, and rounded.
    """
    for axis, new in ((-1, size[1]), (-2, size[0])):
        old = planes.shape[axis]
        if new == old:
            continue
        scale = old / new
        support = max(1.0, scale)
        centre = scale * (np.arange(new) + 0.5)
        first = np.maximum((centre - support + 0.5).astype(int), 0)
        stop = np.minimum((centre + support + 0.5).astype(int), old)
        taps = np.arange(int((stop - first).max()))
        place = first[:, None] + taps
        weight = np.clip(1 - np.abs((place - centre[:, None] + 0.5) / support), 0, None) * (place < stop[:, None])
        weight = weight / weight.sum(axis=1, keepdims=True)
        bits = 0
        if planes.dtype == np.uint8:
            while int(0.5 + weight.max() * 2 ** (bits + 1)) < 1 << 15:
                bits += 1
            weight = np.floor(weight * 2**bits + 0.5)
        weight = weight.astype(np.int32 if bits else np.float32)
        place = np.minimum(place, old - 1)
        total: Any = (1 << bits) >> 1
        for k in taps:
            share = weight[:, k] if axis == -1 else weight[:, k, None]
            total = total + share * np.take(planes, place[:, k], axis=axis)
        planes = np.clip(total >> bits, 0, 255).astype(np.uint8) if bits else total
    return planes


def enlarge(maps: Array, size: Sequence[int]) -> Array:
    """Resize the last two axes of maps bilinearly, without anti-aliasing."""
    for axis, new in ((-1, size[1]), (-2, size[0])):
        old = maps.shape[axis]
        if new == old:
            continue
        place = np.maximum((np.arange(new) + 0.5) * (old / new) - 0.5, 0)
        below = place.astype(int)
        share = (place - below).astype(np.float32)
        share = share if axis == -1 else share[:, None]
        above = np.minimum(below + 1, old - 1)
        maps = np.take(maps, below, axis=axis) * (1 - share) + np.take(maps, above, axis=axis) * share
    return maps


def blur(maps: Array, sigma: float) -> Array:
    """Blur the last two axes with a Gaussian; the border's values continue outside."""
    radius = max(1, round(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1, dtype=np.float32) / np.float32(sigma)) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis in (-1, -2):
        sides = [(0, 0)] * maps.ndim
        sides[axis] = (radius, radius)
        wide = np.pad(maps, sides, mode="edge")
        n = maps.shape[axis]
        total = np.zeros_like(maps)
        for k, weight in enumerate(kernel):
            total += weight * (wide[..., k : k + n] if axis == -1 else wide[..., k : k + n, :])
        maps = total
    return maps


def restore(cells: Array, inner: Sequence[int], outer: Sequence[int], stride: int, offset: float) -> Array:
    """Bring a map of cells back to the picture's own pixels."""
    for axis in (0, 1):
        n = cells.shape[axis]
        place = (np.arange(outer[axis]) + 0.5) * (inner[axis] / outer[axis]) - 0.5
        place = np.clip((place - offset) / stride, 0, n - 1)
        below = np.minimum(place.astype(int), max(0, n - 2))
        share = (place - below).astype(np.float32)
        share = share[:, None] if axis == 0 else share
        low = np.take(cells, below, axis=axis)
        cells = low + (np.take(cells, np.minimum(below + 1, n - 1), axis=axis) - low) * share
    return cells


# The model


class Model:
    """The model in a folder: a network, and the good patches that everything is compared with."""

    def __init__(self, folder: Path, threads: int = 0) -> None:
        self.card: dict[str, Any] = json.loads((folder / "edge.json").read_text(encoding="utf-8"))
        for name, digest in self.card["files"].items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                raise ValueError(f"{name} is not the file that edge.json was written for; copy the folder again")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has no common class of its own
            raise ValueError(f"model.onnx cannot be run: {error}") from error
        tensors = tensors_of(folder / "weights.safetensors")
        count = len(self.card["views"])
        self.memories = [tensors[f"memory.{k}"].astype(np.float32) for k in range(count)]
        self.bases: list[Array | None] = [tensors.get(f"basis.{k}") for k in range(count)]
        self.short = [shorten(m, basis) for m, basis in zip(self.memories, self.bases, strict=True)]
        self.norms = [np.square(m).sum(axis=1) for m in self.short]
        self.densities = [tensors[f"density.{k}"] for k in range(count)]
        self.mean, self.std = (
            np.asarray(self.card["backbone"][k], np.float32).reshape(1, 3, 1, 1) for k in ("mean", "std")
        )

    def window(self, pixels: Array) -> Array:
        """Return the scores ``(h', w')`` of prepared pixels ``(C, h, w)``."""
        stride, multiple = self.card["backbone"]["stride"], self.card["backbone"]["multiple"]
        grid = [n // stride for n in pixels.shape[1:]]
        total = np.zeros(grid, np.float32)
        seen: tuple[Any, ...] = ()
        levels: list[Array] = []
        for k, view in enumerate(self.card["views"]):
            look = (view["factor"], view["blur"], view["gain"])
            if look != seen:  # views that differ in their border alone share one pass
                size = [max(multiple, round(n * view["factor"] / multiple) * multiple) for n in pixels.shape[1:]]
                batch = shrink(pixels, size)
                if view["blur"]:
                    batch = np.float32(0.5) + np.float32(view["gain"]) * (batch - blur(batch, view["blur"]))
                batch = np.ascontiguousarray(((batch[None] - self.mean) / self.std).astype(np.float32))
                levels, seen = [level[0] for level in self.session.run(None, {"image": batch})], look
            features = join(levels, view["border"])
            patches = features.reshape(len(features), -1).T
            score = self.search(np.ascontiguousarray(patches), k).reshape(features.shape[1:])
            total += enlarge(score, grid)
        return blur(total, self.card["smoothing"]) if self.card["smoothing"] else total

    def search(self, patches: Array, view: int) -> Array:
        """Return for each patch its distance to the nearest good one, times that one's density factor."""
        memory, short, norms, density = self.memories[view], self.short[view], self.norms[view], self.densities[view]
        found = np.empty(len(patches), np.float32)
        for start in range(0, len(patches), BLOCK):
            part = patches[start : start + BLOCK]
            products = norms - 2 * (shorten(part, self.bases[view]) @ short.T)
            chunk = len(memory) if self.bases[view] is None else math.ceil(len(memory) / CHUNKS)
            starts = range(0, len(memory), chunk)
            numbers = np.stack([at + products[:, at : at + chunk].argmin(axis=1) for at in starts], axis=1)
            squares = np.square(part[:, None] - memory[numbers]).sum(axis=2)
            nearest = squares.argmin(axis=1)[:, None]
            best = np.take_along_axis(numbers, nearest, axis=1)[:, 0]
            distance = np.sqrt(np.take_along_axis(squares, nearest, axis=1)[:, 0])
            found[start : start + BLOCK] = distance * density[best]
        return found

    def cells(self, pixels: Array) -> Array:
        """Return the scores of prepared pixels of any size: large ones go through overlapping windows."""
        card, stride = self.card, self.card["backbone"]["stride"]
        preparation = card["preparation"]
        shape = pixels.shape[1:]
        side = max(preparation["multiple"], preparation["tile"] // preparation["multiple"] * preparation["multiple"])
        if shape[0] * shape[1] <= side * side:
            return self.window(pixels)
        ramp = int(preparation["tile"] * preparation["overlap"]) // stride
        total, weights = (np.zeros([n // stride for n in shape]) for _ in range(2))
        lines = [_spans(n, min(n, side), preparation["overlap"], preparation["multiple"]) for n in shape]
        for y in lines[0]:
            for x in lines[1]:
                scores = self.window(pixels[:, y[0] : y[1], x[0] : x[1]])
                at = tuple(slice(a // stride, b // stride) for a, b in (y, x))
                weight = np.outer(*(_rise(s, n, ramp) for s, n in zip(at, total.shape, strict=True)))
                total[at] += scores * weight
                weights[at] += weight
        return (total / weights).astype(np.float32)

    def inspect(self, pixels: Array) -> tuple[dict[str, Any], Array]:
        """Return what is said of a picture ``(C, y, x)``, and its score map ``(y, x)``."""
        card = self.card
        prepared = prepare(pixels, card)
        cells = self.cells(prepared)
        stride, offset = card["backbone"]["stride"], card["offset"]
        scores = restore(cells, prepared.shape[1:], pixels.shape[1:], stride, offset)
        flat = np.sort(cells.astype(np.float64).ravel())
        score = float(flat[flat.size - max(1, round(card["top"] * flat.size)) :].mean())
        if not math.isfinite(score):
            raise PictureError("gives no finite score; look at its values")
        low, high = (_limit(card["findings"][k]) for k in ("low", "high"))
        found = [{**region, "p_value": p_value(region["peak"], card["peaks"])} for region in regions(scores, low, high)]
        said = {
            "score": score,
            "p_value": p_value(score, card["scores"]),
            "verdict": "NG" if score > _limit(card["cuts"]["ng"]) else "REVIEW" if _above(score, card) else "OK",
            "n_findings": len(found),
            "findings": found,
        }
        return said, scores


def shorten(vectors: Array, basis: Array | None) -> Array:
    """Return what vectors are searched by: coordinates in a basis, and the length of what is left over."""
    if basis is None:
        return vectors
    short = vectors @ basis
    left = np.sqrt(np.maximum(np.square(vectors).sum(axis=1) - np.square(short).sum(axis=1), 0))
    return np.concatenate([short, left[:, None]], axis=1)


def join(levels: Sequence[Array], count_border: bool) -> Array:
    """Average each level ``(c, h, w)`` over 3 x 3 cells and join all on the finest grid."""
    joined = []
    for level in levels:
        h, w = level.shape[1:]
        wide = np.pad(level, ((0, 0), (1, 1), (1, 1)))
        rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
        pooled = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
        if count_border:
            pooled = pooled / np.float32(9)
        else:
            counts = [np.minimum(np.arange(n) + 2, n) - np.maximum(np.arange(n) - 1, 0) for n in (h, w)]
            pooled = pooled / np.outer(*counts).astype(np.float32)
        joined.append(enlarge(pooled, levels[0].shape[1:]))
    return np.concatenate(joined)


def tensors_of(path: Path) -> dict[str, Array]:
    """Read a safetensors file: the length of a JSON header, the header, and the numbers."""
    kinds = {"F32": np.float32, "F16": np.float16, "U8": np.uint8, "I64": np.int64}
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            a, b = entry["data_offsets"]
            found[name] = np.frombuffer(data[start + a : start + b], kinds[entry["dtype"]]).reshape(entry["shape"])
    return found


def _spans(length: int, size: int, overlap: float, step: int) -> list[tuple[int, int]]:
    count = 1 if size == length else math.ceil((length - size) / max(step, size * (1 - overlap))) + 1
    starts = {round(i * (length - size) / max(1, count - 1) / step) * step for i in range(count)}
    return [(s, s + size) for s in sorted(starts)]


def _rise(at: slice, length: int, ramp: int) -> Array:
    """Return a window's weights along one axis: 1 inside, falling towards its inner borders."""
    size = at.stop - at.start
    line = np.ones(size)
    reach = min(ramp, size // 2)
    rise = np.arange(1, reach + 1) / (reach + 1)
    if at.start > 0:
        line[:reach] = rise
    if at.stop < length:
        line[size - reach :] = rise[::-1]
    return line


# From scores to words


def _limit(value: float | None) -> float:
    return math.inf if value is None else value


def _above(score: float, card: dict[str, Any]) -> bool:
    cut = card["cuts"]["review"]
    return cut is None or score > cut


def p_value(score: float, known: Sequence[float]) -> float | None:
    """Return the share of good pictures, with this one, that score at least as high; None if none were scored."""
    return (1 + sum(k >= score for k in known)) / (len(known) + 1) if known else None


def regions(scores: Array, low: float, high: float) -> list[dict[str, Any]]:
    """Return the connected regions above `low` with a peak above `high`: box [[y, x], [y, x]] half-open, size, peak."""
    if not scores.max() > high:
        return []
    runs: list[list[Any]] = []  # y0, x0, y1, x1, pixels, peak
    parent: list[int] = []

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    above = range(0)  # the runs of the line before
    for y, line in enumerate(scores > np.float64(low)):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], line, [False]]).astype(np.int8))).tolist()
        first, near = len(runs), above.start
        for a, b in zip(edges[::2], edges[1::2], strict=True):
            parent.append(len(runs))
            runs.append([y, a, y + 1, b, b - a, float(scores[y, a:b].max())])
            while near < above.stop and runs[near][3] < a:
                near += 1
            other = near
            while other < above.stop and runs[other][1] <= b:  # they touch, if only by corners
                parent[root(other)] = root(len(runs) - 1)
                other += 1
        above = range(first, len(runs))
    whole: dict[int, list[Any]] = {}
    for i, run in enumerate(runs):
        into = whole.setdefault(root(i), run)
        if into is not run:
            into[:] = [
                *(min(a, b) for a, b in zip(into[:2], run[:2], strict=True)),
                *(max(a, b) for a, b in zip(into[2:4], run[2:4], strict=True)),
                into[4] + run[4],
                max(into[5], run[5]),
            ]
    found = [{"box_index": [r[:2], r[2:4]], "size": r[4], "peak": r[5]} for r in whole.values() if r[5] > high]
    return sorted(found, key=lambda r: (-r["peak"], -r["size"]))


# The command


def main(arguments: Sequence[str] | None = None) -> int:
    """Inspect what the command line names; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="picture, or folder of pictures")
    parser.add_argument("--model", type=Path, default=Path(__file__).resolve().parent, help="folder of the model")
    parser.add_argument("--out", type=Path, help="file for the lines, in place of the standard output")
    parser.add_argument("--maps", type=Path, metavar="FOLDER", help="write score maps there, as NUMBER.npy, float32")
    parser.add_argument("--threads", type=int, default=0, help="processor cores to use; 0 takes all")
    options = parser.parse_args(arguments)
    PIL.Image.MAX_IMAGE_PIXELS = None  # sizes are checked here
    try:
        model = Model(options.model, options.threads)
        if options.maps:
            options.maps.mkdir(parents=True, exist_ok=True)
        lines = options.out.open("w", encoding="utf-8") if options.out else sys.stdout
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"error: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        return 2
    try:
        with lines if options.out else nullcontext():
            return _run(model, options, lines)
    except OSError as error:  # a full disk, or who reads the lines has gone, as in `| head`
        if not isinstance(error, BrokenPipeError):
            print(f"error: a result cannot be written: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        if not options.out:  # what is left in the buffer would fail once more at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(model: Model, options: argparse.Namespace, lines: TextIO) -> int:
    failed, number = 0, -1
    for number, path in enumerate(list_pictures(options.paths)):
        started = time.perf_counter()
        row: dict[str, Any] = {"path": str(path)}
        try:
            said, scores = model.inspect(read(path))
            row.update(status="done", **said)
            if options.maps:
                np.save(options.maps / f"{number}.npy", scores)
                row["map"] = str(options.maps / f"{number}.npy")
        except (PictureError, MemoryError) as error:
            failed += 1
            why = "does not fit in memory" if isinstance(error, MemoryError) else str(error)
            row.update(status="failed", error=why)
        row["seconds"] = round(time.perf_counter() - started, 4)
        print(json.dumps(row), file=lines, flush=True)
    if number < 0:
        print(f"error: no picture in {', '.join(map(str, options.paths))}", file=sys.stderr)
        return 2
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
