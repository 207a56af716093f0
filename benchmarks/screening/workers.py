"""Cost of an image on a Ray cluster of this machine with 1, 2 and 4 actors, beside the same without Ray.

    python benchmarks/screening/workers.py --images 400 --model MODEL --data FOLDER

Starts a cluster with as many CPUs as asked for, whatever the machine has, so wall times beyond its cores show the
price of sharing and not a gain. CPU time is that of all processes, from the first image handed out to the last one
recorded; it hardly depends on what else the machine does. Both include the start of actors. Linux only.
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
    parser.add_argument("--model", default=None, help="Model folder; without it, one that marks bright pixels.")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args(arguments)
    work = Path(tempfile.mkdtemp(prefix="workers-"))
    source = work / "images"
    images(source, given.images, 0.0, given.data, 0)
    folder = given.model or cheap_model(work / "model")
    screen(source, Engine("cpu").load(folder), work / "warm", options=OPTIONS)  # libraries and files are in memory
    results = [measure("no Ray", source, folder, work / "alone")]
    counts = map(int, given.workers.split(","))
    results += [on_ray(count, source, folder, work / f"ray{count}") for count in counts]
    print(f"{given.images} images, {os.cpu_count()} cores")
    for row in results:
        each = {key: 1000 * row[key] / given.images for key in ("wall", "cpu")}
        print(f"{row['how']:10} wall {each['wall']:8.1f} ms an image   CPU {each['cpu']:8.1f} ms an image")
    if given.json:
        write_text(given.json, json.dumps(results, indent=2) + "\n")
    shutil.rmtree(work)
    return 0


def measure(how: str, source: Path, folder: str | Path, run: Path, elsewhere=None) -> dict:
    """Time one screening."""
    model = Engine("cpu").load(folder)
    began, used = time.perf_counter(), cpu()
    screen(source, model, run, options=OPTIONS, elsewhere=elsewhere)
    return {"how": how, "wall": round(time.perf_counter() - began, 2), "cpu": round(cpu() - used, 2)}


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


def on_ray(workers: int, source: Path, folder: str | Path, run: Path) -> dict:
    """Time one screening on a cluster of its own."""
    from ray.cluster_utils import Cluster

    from inspection_core.cluster import on_ray as elsewhere

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": workers, "object_store_memory": 200 << 20})
    try:
        work = elsewhere(cluster.address, device="cpu", workers=workers)
        return measure(f"{workers} actors", source, folder, run, work)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
