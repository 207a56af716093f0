"""Cost of an image on a Ray cluster of this machine with 1, 2 and 4 actors, beside the same without Ray.

    python benchmarks/screening/workers.py --images 400 --model MODEL --data FOLDER

Starts a cluster with as many CPUs as asked for, whatever the machine has, so wall times beyond its cores show the
price of sharing and not a gain. CPU time is that of all processes, Ray's own among them, from the first image handed
out to the last one recorded; it hardly depends on what else the machine does. Each is measured twice, with all images
and with a few, so that what an image costs can be told from what the start of the actors costs. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from faults import cheap_model, images

from inspection_core.cluster import BATCH
from inspection_core.engine import Engine
from inspection_core.io.atomic import write_text
from inspection_core.screen import screen
from inspection_core.session import Options

OPTIONS = Options(pictures="none")


def main(arguments: list[str]) -> int:
    """Measure, print a table, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--workers", default="1,2,4")
    parser.add_argument("--data", type=Path, default=None, help="Folder of real images; generated ones without it.")
    parser.add_argument("--crop", type=int, default=None, help="Take this many rows and columns of the real images.")
    parser.add_argument("--model", default=None, help="Model folder; without it, one that marks bright pixels.")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args(arguments)
    work = Path(tempfile.mkdtemp(prefix="workers-"))
    source = work / "images"
    images(source, given.images, 0.0, given.data, 0, given.crop)
    counts = [int(n) for n in given.workers.split(",")]
    few = BATCH * max(counts)  # each actor gets work
    images(work / "few", few, 0.0, given.data, 0, given.crop)
    if few >= given.images:
        raise SystemExit(f"--images must be above {few}, which are the start's.")
    folder = given.model or cheap_model(work / "model")
    screen(source, Engine("cpu").load(folder), work / "warm", options=OPTIONS)  # libraries and files are in memory
    results = []
    for count in [0, *counts]:
        run = on_ray if count else alone
        start, whole = (run(count, place, folder, work / f"run{count}{place.name}") for place in (work / "few", source))
        each = {key: 1000 * (whole[key] - start[key]) / (given.images - few) for key in whole}
        row = {"how": f"{count} actors" if count else "no Ray", "few": start, "all": whole, "ms_an_image": each}
        results.append(row | {"load": os.getloadavg()[0]})
    print(f"{given.images} images and {few}, {os.cpu_count()} cores")
    print("| | s, all | CPU s, all | CPU s, the few | ms a further image | CPU ms a further image | load |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in results:
        whole, start, each = row["all"], row["few"], row["ms_an_image"]
        print(
            f"| {row['how']} | {whole['wall']:.1f} | {whole['cpu']:.1f} | {start['cpu']:.1f} | {each['wall']:.1f} | "
            f"{each['cpu']:.1f} | {row['load']:.0f} |"
        )
    if given.json:
        write_text(given.json, json.dumps(results, indent=2) + "\n")
    shutil.rmtree(work)
    return 0


def alone(_: int, source: Path, folder: str | Path, run: Path, elsewhere=None) -> dict[str, float]:
    """Time one screening; without `elsewhere`, in this process."""
    model = Engine("cpu").load(folder)
    began, used = time.perf_counter(), cpu()
    screen(source, model, run, options=OPTIONS, elsewhere=elsewhere)
    return {"wall": time.perf_counter() - began, "cpu": cpu() - used}


def cpu() -> float:
    """Return the CPU seconds of this process and everything that it started."""
    parents, times = {}, {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has ended meanwhile
            continue
        parents[int(place.parent.name)] = int(fields[1])
        times[int(place.parent.name)] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    mine = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return sum(times.get(pid, 0.0) for pid in mine)


def on_ray(workers: int, source: Path, folder: str | Path, run: Path) -> dict[str, float]:
    """Time one screening on a cluster of its own."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # else Ray's give way to all others, and the time tells that
    from ray.cluster_utils import Cluster

    from inspection_core.cluster import on_ray as elsewhere

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": workers, "object_store_memory": 200 << 20})
    try:
        work = elsewhere(cluster.address, device="cpu", workers=workers)
        return alone(workers, source, folder, run, work)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
