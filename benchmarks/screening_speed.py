"""Screening and fitting, files to results, beside anomalib's PatchCore with one backbone. Needs ``INSPECTION_DATA``.

    python benchmarks/screening_speed.py --peer peer/bin/python     writes docs/benchmarks/ and docs/performance.md
    python benchmarks/screening_speed.py --rounds 1 --dry           ours alone, and nothing in docs/ is touched

`benchmarks/accuracy/peer_patchcore.py` says how to make the peer's environment. In each round all candidates take their
turn on the same images, the peer's in a process that waits meanwhile; ratios are formed within a round.

Ours is `screen`: listing, decoding, hashing, verdict, findings, database; without the report's pictures, which the peer
does not draw either. Of the tables and the report at the end the CPU time is counted, the wall time is not. The peer
goes from file to score. The peer's memory of a tenth of the patches is chosen by our `greedy_coreset`, since its own
choice takes ten minutes or more; the time of a search depends on the memory's size alone. The choice itself is timed on
both sides for a hundredth of the patches, on the peer's own patches.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inspection_core import learn
from inspection_core.engine import Engine, LoadedModel
from inspection_core.infer import begin, complete, forward
from inspection_core.io.identity import content
from inspection_core.io.raster import list_images, read_raster
from inspection_core.models.nearest import greedy_coreset
from inspection_core.screen import screen
from inspection_core.session import Options

SETS = {
    "ball_screw": "ball_screw/ball_screw",
    "magnetic_tile": "magnetic_tile/magnetic_tile",
    "pv_cell_mono": "pv_el/pv_cell_mono",
}
MARKS = ("<!-- screening_speed: made by benchmarks/screening_speed.py -->", "<!-- end of screening_speed -->")
ROOT = Path(__file__).parents[1]


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
    """Return CPU milliseconds an image of each stage, one after the other with one thread each."""
    torch.set_num_threads(1)
    spent: dict[str, float] = {}

    def lap(name: str, work: Callable[[], Any]) -> Any:
        given, _, cpu = timed(work)
        spent[name] = spent.get(name, 0.0) + cpu / len(paths) * 1e3
        return given

    predictor: Any = model.predictor
    complete(forward([begin(read_raster(paths[0]), model)], model)[0], model)
    for path in paths:
        lap("hash", lambda path=path: content([path]))
        image = lap("decode", lambda path=path: read_raster(path))
        begun = lap("prepare", lambda image=image: begin(image, model))
        with torch.inference_mode():
            described = lap("backbone", lambda begun=begun: list(predictor.describer(begun.prepared.pixels[None])))
            for (patches, _), memory in zip(described, predictor.memories, strict=True):
                lap("search", lambda patches=patches, memory=memory: memory.search(patches))
        done = forward([begun], model)[0]
        lap("restore and findings", lambda done=done: complete(done, model))
    torch.set_num_threads(os.cpu_count() or 1)
    return {name: round(ms, 2) for name, ms in spent.items()}


def limits(paths: list[Path], model: LoadedModel) -> dict[str, float]:
    """Return the measured GEMM rate of one core in GFLOP/s, and the GFLOP of backbone and search of an image."""
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(1)
    a = torch.rand((1024, 1024))
    torch.mm(a, a)
    best = min(timed(lambda: torch.mm(a, a))[1] for _ in range(20))
    torch.set_num_threads(os.cpu_count() or 1)
    predictor: Any = model.predictor
    pixels = begin(read_raster(paths[0]), model).prepared.pixels[None]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        made = [network(pixels) for network in predictor.describer._networks]
    queries = sum(features.shape[1] * features.shape[2] for group in made for features in group)
    memory = predictor.memories[0]
    return {
        "gemm_gflops": round(2 * 1024**3 / best / 1e9, 1),
        "backbone": round(counter.get_total_flops() / 1e9, 3),
        "search": round(2 * queries * memory._columns.numel() / 1e9, 3),
    }


def radius(vectors: torch.Tensor, numbers: list[int]) -> float:
    """Return how far the farthest vector is from its nearest chosen one."""
    chosen = vectors[numbers]
    return max(float(torch.cdist(part, chosen).amin(dim=1).max()) for part in vectors.split(4096))


def spread(values: list[float], digits: int = 1) -> str:
    """Return the median, and the lowest and highest."""
    low, high = min(values), max(values)
    return f"{np.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def table(result: dict[str, Any]) -> str:
    """Return the section of docs/performance.md."""
    rounds, about = result["rounds"], result["about"]
    names = list(rounds[0])
    ours = [r["ours, fast"]["ms"] for r in rounds]
    lines = [
        "| candidate | images a second | CPU ms an image | its time, in times of ours, fast |",
        "| --- | --- | --- | --- |",
    ]
    for name in names:
        speed = spread([1e3 / r[name]["ms"] for r in rounds])
        cpu = spread([r[name]["cpu_ms"] for r in rounds])
        ratio = spread([r[name]["ms"] / own for r, own in zip(rounds, ours, strict=True)])
        lines.append(f"| {name} | {speed} | {cpu} | {ratio} |")
    if result["auroc"]:
        lines += ["", "| image AUROC, `fast` | OpenVINO | torch |", "| --- | --- | --- |"]
    lines += [f"| {name} | {a['cpu']:.4f} | {a['cpu/torch']:.4f} |" for name, a in result["auroc"].items()]
    limit, spent = result["limits"], result["stages"]
    lines += ["", "| stage, `fast`, one thread | CPU ms | share | its FLOP at the measured GEMM rate, ms |"]
    lines += ["| --- | --- | --- | --- |"]
    for name, ms in spent.items():
        floor = f"{limit[name] / limit['gemm_gflops'] * 1e3:.1f}" if name in limit else ""
        lines.append(f"| {name} | {ms:.1f} | {ms / sum(spent.values()):.0%} | {floor} |")
    lines += ["", f"One core multiplies matrices of 1,024 x 1,024 at {limit['gemm_gflops']:.0f} GFLOP/s."]
    seconds = result["fit"]
    took = f"{seconds['wall']:.1f} s after start-up, {seconds['cpu']:.1f} s of CPU"
    lines += ["", f"Fitting {seconds['images']} images with `fast`: {took}."]
    if "coreset" in result:
        ours_, peer = result["coreset"]["ours"], result["coreset"]["peer"]
        count, patches = result["coreset"]["count"], result["coreset"]["patches"]
        lines += ["", f"| coreset of {count:,} of {patches:,} patches | seconds | CPU seconds | covering radius |"]
        lines += ["| --- | --- | --- | --- |"]
        for name, one in (("ours", ours_), ("anomalib", peer)):
            lines.append(f"| {name} | {one['seconds']:.2f} | {one['cpu_seconds']:.2f} | {one['radius']:.3f} |")
    machine = (
        f"{about['machine']}, {about['cores']} cores, load {about['load']} before and {result['load_after']} after"
    )
    lines += ["", f"{about['date']}; {machine}; {about['versions']}. {about['command']}"]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=os.environ.get("INSPECTION_PEER"), help="python of the peer's environment")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--presets", nargs="+", default=["fast", "accurate"])
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS), help="whose AUROC is measured")
    parser.add_argument("--dry", action="store_true", help="print only")
    options = parser.parse_args()
    data = os.environ.get("INSPECTION_DATA")
    if not data:
        raise SystemExit("INSPECTION_DATA should name the folder with industrial/; nothing was measured.")
    industrial = Path(data) / "industrial"
    dataset = industrial / SETS["ball_screw"]
    good, all_images = list_images(dataset / "train" / "good"), list_images(dataset / "test")
    versions = {name: version(name) for name in ("torch", "openvino", "timm")}
    peer = Peer(options.peer, os.cpu_count() or 1) if options.peer else None
    command = f"python benchmarks/screening_speed.py --rounds {options.rounds} --presets {' '.join(options.presets)}"
    about: dict[str, Any] = {
        "date": date.today().isoformat(), "machine": _processor(), "cores": os.cpu_count(),
        "load": f"{os.getloadavg()[0]:.1f}", "python": platform.python_version(),
        "versions": ", ".join(f"{n} {v}" for n, v in (versions | ({} if peer is None else peer.versions)).items()),
        "command": f"`{command}`, {len(all_images)} images of ball_screw/test, JPEG of 1130 x 460",
    }  # fmt: skip
    result: dict[str, Any] = {"about": about, "auroc": {}}
    with tempfile.TemporaryDirectory() as scratch:
        models: dict[str, LoadedModel] = {}
        for preset in options.presets:
            out = Path(scratch) / preset
            _, wall, cpu = timed(lambda out=out, preset=preset: learn.fit(dataset, out, preset=preset, device="cpu"))
            result.setdefault("fit", {"images": len(good), "wall": wall, "cpu": cpu})
            models[f"ours, {preset}"] = Engine("cpu").load(out)
        models["ours, fast, in torch"] = Engine("cpu/torch").load(Path(scratch) / "fast")
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
            rate(dataset / "test", model)  # compiles, and warms the file cache
        result["rounds"] = []
        for number in range(options.rounds):
            turn = {name: rate(dataset / "test", model) for name, model in models.items()}
            for name, chosen in memories.items():
                took = peer.ask(do="score", images=[str(p) for p in all_images], file=file, numbers=chosen)
                turn[name] = {key: took[k] / len(all_images) * 1e3 for key, k in KEYS.items()}
            result["rounds"].append(turn)
            print(number, {name: round(one["ms"], 1) for name, one in turn.items()}, flush=True)
        result["stages"] = stages(all_images[:40], models["ours, fast"])
        result["limits"] = limits(all_images, models["ours, fast"])
        result["load_after"] = f"{os.getloadavg()[0]:.1f}"
        publish(result, options.dry)  # of a run that is cut short, this much is there
        for name in options.sets:
            folder, out = industrial / SETS[name], Path(scratch) / f"{name}-auroc"
            if folder == dataset:
                out = Path(scratch) / "fast"
            else:
                learn.fit(folder, out, preset="fast", device="cpu")
            devices = ("cpu", "cpu/torch")
            result["auroc"][name] = {device: image_auroc(folder, Engine(device).load(out)) for device in devices}
            print(name, result["auroc"][name], flush=True)
        publish(result, options.dry)


def publish(result: dict[str, Any], dry: bool) -> None:
    """Print the table, and write it and the figures into docs/."""
    text = table(result)
    print(text, flush=True)
    if dry:
        return
    place = ROOT / "docs" / "benchmarks" / "screening_speed.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    page = ROOT / "docs" / "performance.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    page.write_text(f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}", encoding="utf-8")


KEYS = {"ms": "seconds", "cpu_ms": "cpu_seconds"}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
