"""Screening and fitting, files to results, beside anomalib's PatchCore with one backbone. Needs ``INSPECTION_DATA``.

    python benchmarks/screening_speed.py --peer peer/bin/python     beside the peer
    python benchmarks/screening_speed.py --rounds 1 --alone         ours alone

`benchmarks/accuracy/peer_patchcore.py` says how to make the peer's environment; ``INSPECTION_PEER`` names its Python
too, and without either nothing is measured unless ``--alone`` says so. In each round all candidates take their
turn on the same images, the peer's in a process that waits meanwhile; ratios are formed within a round.

Ours is `screen`: listing, decoding, hashing, verdict, findings, database; without the report's pictures, which the peer
does not draw either. Of the tables and the report at the end the CPU time is counted, the wall time is not. The peer
goes from file to score. The peer's memory of a tenth of the patches is chosen by our `greedy_coreset`, since its own
choice takes ten minutes or more; the time of a search depends on the memory's size alone. The choice itself is timed on
both sides for a hundredth of the patches, on the peer's own patches.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import ROOT, arguments, data, left_out, machine, ratios, render, spread, table, write_json

from inspection_core import learn
from inspection_core.engine import Engine, LoadedModel
from inspection_core.infer import begin, complete, forward
from inspection_core.io.identity import content
from inspection_core.io.raster import list_images, read_raster
from inspection_core.models.compiled import Compiled, convert
from inspection_core.models.nearest import greedy_coreset
from inspection_core.screen import screen
from inspection_core.session import Options

SETS = {
    "ball_screw": "ball_screw/ball_screw",
    "magnetic_tile": "magnetic_tile/magnetic_tile",
    "pv_cell_mono": "pv_el/pv_cell_mono",
}
RUNTIMES = {"cpu": "OpenVINO", "cpu/torch": "torch"}
PACKAGES = ("inspection-suite", "torch", "openvino", "timm")
KEYS = {"ms": "seconds", "cpu_ms": "cpu_seconds"}
WANTED = 60
"""Images a second."""
WANTED_TIMES = {"anomalib PatchCore, 10 %": 8, "anomalib PatchCore, 1 %": 4}
"""How many times as fast as the peer."""
WANTED_CORESET, WANTED_AUROC, WANTED_FIT = 20, 0.002, 20
"""How many times as fast a coreset, how much less an AUROC than torch's, and seconds for 100 images."""


class Peer:
    """anomalib in a process of its own."""

    def __init__(self, python: str, threads: int) -> None:
        command = [python, str(ROOT / "benchmarks" / "speed" / "peer.py"), str(threads)]
        pipe = subprocess.PIPE
        self.process: Any = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        self.versions = self._answer()["versions"]

    def ask(self, **task: Any) -> dict[str, Any]:
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("The peer's process ended; run benchmarks/speed/peer.py by hand to see why.")
        return json.loads(line)


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what `work` gives, with its wall and CPU seconds."""
    started, cpu = time.perf_counter(), time.process_time()
    given = work()
    return given, time.perf_counter() - started, time.process_time() - cpu


def rate(folder: Path, model: LoadedModel) -> dict[str, float]:
    """Screen a folder; return milliseconds an image, wall and CPU."""
    with tempfile.TemporaryDirectory() as run:
        cpu = time.process_time()
        done = screen(folder, model, Path(run), options=Options(pictures="none"))
        cpu = time.process_time() - cpu  # tables and report included
    return {"ms": done.seconds / done.new * 1e3, "cpu_ms": cpu / done.new * 1e3}


def image_auroc(dataset: Path, model: LoadedModel) -> float:
    """Return the image AUROC on a set's test images."""
    with tempfile.TemporaryDirectory() as run:
        rows = screen(dataset / "test", model, Path(run), options=Options(pictures="none")).rows
        good = np.array([r.score for r in rows if r.path.startswith("good/")])
        bad = np.array([r.score for r in rows if not r.path.startswith("good/")])[:, None]
        return float((bad > good).mean() + (bad == good).mean() / 2)


def stages(paths: list[Path], model: LoadedModel) -> dict[str, float]:
    """Return CPU milliseconds an image of each stage, one after the other with one thread each.

    Network and search are one call; what it takes longer than the network by itself is the search.
    """
    torch.set_num_threads(1)
    spent: dict[str, float] = {}

    def lap(name: str, work: Callable[[], Any]) -> Any:
        given, _, cpu = timed(work)
        spent[name] = spent.get(name, 0.0) + cpu / len(paths) * 1e3
        return given

    predictor: Any = model.predictor
    for path in paths:  # which also compiles for sizes that come often
        begun = begin(read_raster(path), model)
        with torch.inference_mode():
            list(predictor.describer(begun.prepared.pixels[None]))
        complete(forward([begun], model)[0], model)
    for path in paths:
        lap("hash", lambda path=path: content([path]))
        image = lap("decode", lambda path=path: read_raster(path))
        begun = lap("prepare", lambda image=image: begin(image, model))
        with torch.inference_mode():
            lap("backbone", lambda begun=begun: list(predictor.describer(begun.prepared.pixels[None])))
            lap("search", lambda begun=begun: predictor(begun.prepared.pixels[None]))
        done = forward([begun], model)[0]
        lap("restore and findings", lambda done=done: complete(done, model))
    torch.set_num_threads(os.cpu_count() or 1)
    spent["search"] = max(0.0, spent["search"] - spent["backbone"])
    return {name: round(ms, 2) for name, ms in spent.items()}


def multiplied() -> float:
    """Return the operations a second that one core does in a product of two matrices of 1,024 x 1,024.

    That of torch or that of OpenVINO, whichever is faster: on some processors one takes twice as long as the other.
    """
    a = torch.rand((1024, 1024))
    with torch.inference_mode():
        layer = Compiled(convert(torch.nn.Linear(1024, 1024, bias=False).eval(), a))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.mm(a, a)
    products = (lambda: torch.mm(a, a)), (lambda: layer(a.numpy()))
    best = min(timed(product)[2] for product in products for _ in range(20))  # CPU time, as that of the stages
    torch.set_num_threads(threads)
    return 2 * 1024**3 / best


def copied(size: int = 1 << 28) -> float:
    """Return the bytes a second that one core moves in a plain copy of `size` bytes, by reading and by writing.

    As STREAM's "copy" counts them (McCalpin 1995); the arrays are larger than any cache.
    """
    source, target = np.ones(size // 8), np.zeros(size // 8)
    best = min(timed(lambda: np.copyto(target, source))[2] for _ in range(10))
    return 2 * source.nbytes / best


def operations(path: Path, model: LoadedModel) -> dict[str, float]:
    """Return the floating-point operations of backbone and search for an image."""
    from torch.utils.flop_counter import FlopCounterMode

    predictor: Any = model.predictor
    pixels = begin(read_raster(path), model).prepared.pixels[None]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        made = [features for network in predictor.describer._networks for features in network(pixels)]
    searched = sum(
        2 * features[..., 0].numel() * len(memory) * directions(memory)
        for features, memory in zip(made, predictor.memories, strict=True)
    )
    return {"backbone": float(counter.get_total_flops()), "search": float(searched)}


def least_bytes(paths: list[Path], model: LoadedModel) -> dict[str, float]:
    """Return the bytes that each stage must move at least for an image, the mean over `paths`.

    What it is given and what it gives count once each: file and pixels; pixels and window; window, weights and patches;
    patches and references, in the directions that are searched; the map, written and read again, and the mask.
    Activations between layers and products of a search do not count: they may stay in the processor's cache.
    """
    predictor: Any = model.predictor
    weights = sum(4 * parameter.numel() for parameter in predictor.describer.backbone.net.parameters())
    moved = dict.fromkeys(("hash", "decode", "prepare", "backbone", "search", "restore and findings"), 0.0)
    for path in paths:
        image = read_raster(path)
        begun = begin(image, model)
        window = begun.prepared.pixels
        with torch.inference_mode():
            patches = [found for found, _ in predictor.describer(window[None])]
        given = complete(forward([begun], model)[0], model)
        file = path.stat().st_size
        described = sum(found.nbytes for found in patches)
        moved["hash"] += file
        moved["decode"] += file + image.array.nbytes
        moved["prepare"] += image.array.nbytes + window.nbytes
        moved["backbone"] += window.nbytes + weights + described
        moved["search"] += described + sum(4 * len(m) * directions(m) for m in predictor.memories)
        moved["restore and findings"] += 2 * given.score.nbytes + given.mask.nbytes
    return {name: count / len(paths) for name, count in moved.items()}


def directions(memory: Any) -> int:
    """Return how many numbers of a reference are searched: its coordinates, and the length of what is left over."""
    return int(memory.vectors.shape[1] if memory.basis is None else memory.basis.shape[1] + 1)


def limits(paths: list[Path], model: LoadedModel) -> dict[str, Any]:
    """Return the measured rates of one core, and what each stage must do for an image."""
    return {
        "operations_a_second": multiplied(),
        "bytes_a_second": copied(),
        "operations": operations(paths[0], model),
        "bytes": least_bytes(paths, model),
    }


def stage_table(spent: dict[str, float], limit: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the table of the stages, each beside its limits, and what is said of the rates."""
    rows = []
    for name, ms in spent.items():
        work, moved = limit["operations"].get(name), limit["bytes"][name]
        floor = "" if work is None else f"{1e3 * work / limit['operations_a_second']:.1f}"
        rows.append([name, f"{ms:.1f}", f"{ms / sum(spent.values()):.0%}", floor,
                     f"{1e3 * moved / limit['bytes_a_second']:.2g}"])  # fmt: skip
    columns = ["stage, `fast`, one thread", "CPU ms", "share", "its FLOP at the measured GEMM rate, ms",
               "its bytes at the measured bandwidth, ms"]  # fmt: skip
    least = {name: max(limit["operations"].get(name, 0) / limit["operations_a_second"],
                       limit["bytes"][name] / limit["bytes_a_second"]) * 1e3 for name in spent}  # fmt: skip
    both = least["backbone"] + least["search"]
    rates = (
        f"One core multiplies matrices of 1,024 x 1,024 at {limit['operations_a_second'] / 1e9:.0f} GFLOP/s, and "
        f"copies at {limit['bytes_a_second'] / 1e9:.1f} GB/s, bytes read and bytes written counted."
    )
    counted = (
        "A stage's bytes are what it is given and what it gives, once each: file and pixels; pixels and window; "
        "window, weights and patches; patches and references; the map, written and read, and the mask. What may stay "
        "in the processor's cache, such as activations between layers, does not count."
    )
    apart = (
        f"All stages take {sum(spent.values()):.1f} ms, their limits {sum(least.values()):.1f} ms. Backbone and search "
        f"take {(spent['backbone'] + spent['search']) / both:.1f} times theirs, the backbone alone "
        f"{spent['backbone'] / least['backbone']:.1f} times, the search {spent['search'] / least['search']:.1f} times."
    )
    return table("", columns, rows), [rates, counted, apart]


def radius(vectors: torch.Tensor, numbers: list[int]) -> float:
    """Return how far the farthest vector is from its nearest chosen one."""
    chosen = vectors[numbers]
    return max(float(torch.cdist(part, chosen).amin(dim=1).max()) for part in vectors.split(4096))


def aims(result: dict[str, Any]) -> list[str]:
    """Return what was wanted and what there is, in sentences."""
    runs = {name: [turn[name] for turn in result["rounds"]] for name in result["rounds"][0]}
    ours = runs["ours, fast"]
    middle = np.median([1e3 / one["ms"] for one in ours])
    notes = [f"At least {WANTED} images a second were wanted: {_held(f'there are {middle:.0f}', middle >= WANTED)}."]
    for name, wanted in WANTED_TIMES.items():
        if name in runs:
            wall, cpu = (float(np.median(ratios(runs[name], ours, key))) for key in KEYS)
            there = f"it is {wall:.1f} times, {cpu:.1f} by CPU time"
            notes.append(f"At least {wanted} times the speed of {name}, was wanted: {_held(there, wall >= wanted)}.")
    if "coreset" in result:
        one, other = result["coreset"]["ours"], result["coreset"]["peer"]
        times = other["seconds"] / one["seconds"]
        there = f"it is {times:.0f} times, with {one['radius'] / other['radius']:.2f} of its covering radius"
        notes.append(
            f"At least {WANTED_CORESET} times the speed of anomalib's coreset was wanted: "
            f"{_held(there, times >= WANTED_CORESET)}."
        )
    lower = [found["cpu/torch"] - v for found in result["auroc"].values() for d, v in found.items() if d != "cpu/torch"]
    if lower:
        there = f"it is lower by {max(0.0, *lower):.4f} at most"
        notes.append(
            f"An image AUROC lower than torch's by at most {WANTED_AUROC} was wanted: "
            f"{_held(there, max(lower) <= WANTED_AUROC)}."
        )
    fit = result["fit"]
    took = f"{fit['wall']:.1f} s after start-up, {fit['cpu']:.1f} s of CPU"
    return [*notes, f"Fitting {fit['images']} images with `fast`: {took}; under {WANTED_FIT} s were wanted for 100."]


def _held(said: str, reached: bool) -> str:
    return said if reached else f"**{said}, which falls short**"


def tables(result: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the tables and the sentences below them."""
    runs = {name: [turn[name] for turn in result["rounds"]] for name in result["rounds"][0]}
    ours = runs["ours, fast"]
    rows = [
        [name, spread([1e3 / one["ms"] for one in taken], ".1f"), spread([one["cpu_ms"] for one in taken], ".1f"),
         spread(ratios(taken, ours, "ms"), ".1f")]
        for name, taken in runs.items()
    ]  # fmt: skip
    columns = ["candidate", "images a second", "CPU ms an image", "its time, in times of ours, fast"]
    made = [table("", columns, rows)]
    if result["auroc"]:
        devices = list(next(iter(result["auroc"].values())))
        rows = [[name, *(f"{found[d]:.4f}" for d in devices)] for name, found in result["auroc"].items()]
        made.append(table("", ["image AUROC, `fast`", *(RUNTIMES.get(d, d) for d in devices)], rows))
    notes = [f"Screened: {result['images']}.", *aims(result)]
    if "coreset" in result:
        found = result["coreset"]
        columns = [f"coreset of {found['count']:,} of {found['patches']:,} patches", "seconds", "CPU seconds",
                   "covering radius"]  # fmt: skip
        sides = {"ours": found["ours"], "anomalib": found["peer"]}
        rows = [
            [name, *(f"{one[k]:.2f}" for k in ("seconds", "cpu_seconds")), f"{one['radius']:.3f}"]
            for name, one in sides.items()
        ]
        made.append(table("", columns, rows))
    if "stages" not in result:
        return made, notes
    stage, said = stage_table(result["stages"], result["limits"])
    return [*made, stage], [*notes, *said]


def main() -> int:
    """Measure, print, and write."""
    parser = arguments("screening_speed", __doc__)
    parser.add_argument("--peer", default=os.environ.get("INSPECTION_PEER"), help="python of the peer's environment")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=4, help="of each image: a run of few would measure its ends")
    parser.add_argument("--presets", nargs="+", default=["fast", "accurate"])
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS), help="whose AUROC is measured")
    parser.add_argument("--alone", action="store_true", help="without the peer")
    options = parser.parse_args()
    industrial = data("industrial")
    if industrial is None:
        return left_out("needs INSPECTION_DATA, the folder of real images")
    if not (options.peer or options.alone):
        return left_out("needs anomalib's environment, by --peer or INSPECTION_PEER; --alone measures ours alone")
    dataset = industrial / SETS["ball_screw"]
    good, own_images = list_images(dataset / "train" / "good"), list_images(dataset / "test")
    facts = machine(PACKAGES, options.device)
    peer = None if options.alone else Peer(options.peer, os.cpu_count() or 1)
    if peer is not None:
        facts["versions"]["anomalib"] = peer.versions["anomalib"]
    images = f"{len(own_images)} images of ball_screw/test, {options.copies} times, JPEG of 1130 x 460"
    result: dict[str, Any] = {"images": images, "auroc": {}}

    def publish() -> str:
        made, notes = tables(result)
        return render(write_json(options.out, facts, made, result, notes))

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        folder.mkdir()
        for number, path in enumerate(own_images * options.copies):
            shutil.copyfile(path, folder / f"{number:05d}{path.suffix}")
        all_images = list_images(folder)
        models: dict[str, LoadedModel] = {}
        for preset in options.presets:
            out = Path(scratch) / preset
            _, wall, cpu = timed(
                lambda out=out, preset=preset: learn.fit(dataset, out, preset=preset, device=options.device)
            )
            result.setdefault("fit", {"images": len(good), "wall": wall, "cpu": cpu})
            models[f"ours, {preset}"] = Engine(options.device).load(out)
        other, name = ("cpu/torch", "in torch") if options.device == "cpu" else ("cpu", "on the CPU")
        models[f"ours, fast, {name}"] = Engine(other).load(Path(scratch) / "fast")
        memories: dict[str, list[int]] = {}
        if peer is not None:
            file = f"{scratch}/patches.npy"
            patches = peer.ask(do="describe", images=[str(p) for p in good], file=file)["patches"]
            vectors = torch.from_numpy(np.load(file))
            few = patches // 100
            (numbers, _), wall, cpu = timed(lambda: greedy_coreset(vectors, few))
            own = numbers.tolist()
            its = peer.ask(do="choose", file=file, count=few)
            result["coreset"] = {
                "patches": patches, "count": few,
                "ours": {"seconds": wall, "cpu_seconds": cpu, "radius": radius(vectors, own)},
                "peer": {**{k: its[k] for k in ("seconds", "cpu_seconds")}, "radius": radius(vectors, its["numbers"])},
            }  # fmt: skip
            memories["anomalib PatchCore, 1 %"] = its["numbers"]
            memories["anomalib PatchCore, 10 %"] = greedy_coreset(vectors, patches // 10)[0].tolist()
        for model in models.values():
            rate(folder, model)  # compiles, and warms the file cache
        result["rounds"] = []
        for number in range(options.rounds):
            turn = {name: rate(folder, model) for name, model in models.items()}
            for name, chosen in memories.items():
                took = peer.ask(do="score", images=[str(p) for p in all_images], file=file, numbers=chosen)
                turn[name] = {key: took[k] / len(all_images) * 1e3 for key, k in KEYS.items()}
            result["rounds"].append(turn)
            print(number, {name: round(one["ms"], 1) for name, one in turn.items()}, flush=True)
        if options.device == "cpu":
            result["stages"] = stages(own_images[:40], models["ours, fast"])
            result["limits"] = limits(own_images[:40], models["ours, fast"])
        publish()  # of a run that is cut short, this much is there
        for name in options.sets:
            whole, out = industrial / SETS[name], Path(scratch) / f"{name}-auroc"
            if whole == dataset:
                out = Path(scratch) / "fast"
            else:
                learn.fit(whole, out, preset="fast", device=options.device)
            devices = dict.fromkeys((options.device, "cpu/torch"))
            result["auroc"][name] = {device: image_auroc(whole, Engine(device).load(out)) for device in devices}
            print(name, result["auroc"][name], flush=True)
        print(publish())
    return 0


if __name__ == "__main__":
    sys.exit(main())
