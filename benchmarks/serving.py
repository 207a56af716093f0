"""How many requests a second `inspection serve` answers, how long they take, and what it does with more than it can.

    python benchmarks/serving.py                                 one to many clients, 12 s each; needs [bench], [serve]
    python benchmarks/serving.py --seconds 5 --clients 1,8       a quick look

A model is fitted on generated pictures, and served by a process of its own on the loopback; locust, in another, sends
one picture of 256 x 256 pixels again and again. Clients ask as fast as they are answered, so that few of them measure
how long an answer takes, more of them saturate the server, and the last stages offer more than it takes: then it must
refuse with a reason, go on answering the rest, and hold no more memory. Who is refused waits as he is told; in the last
stage, nobody does. Server and clients share the machine's cores.
"""

from __future__ import annotations

import argparse
import csv
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, lacking, left_out, machine, render, table, write_json, write_textures

LOCUSTFILE = Path(__file__).parent / "serving_load" / "locustfile.py"
PACKAGES = ("inspection-suite", "uvicorn", "fastapi", "locust", "torch", "openvino")
PREDICTION = "application/vnd.inspection.prediction"
COLUMNS = {
    "clients": "{clients}",
    "answered a second": "{per_second:.2f}",
    "p50, ms": "{p50_ms:.0f}",
    "p99, ms": "{p99_ms:.0f}",
    "refused": "{refused}",
    "their p99, ms": "{refused_p99_ms:.0f}",
    "failed": "{failed}",
    "CPU time an answer, ms": "{cpu_ms:.0f}",
    "cores used": "{cpu_share:.2f}",
    "memory, MiB": "{memory_mib:.0f}",
    "load": "{load:.0f}",
}


def make_model(folder: Path, side: int) -> Path:
    """Fit a model, preset fast, on twenty generated pictures."""
    from inspection_core.learn import fit

    write_textures(folder / "good", 20, (side, side))
    fit(folder / "good", folder / "model", preset="fast", device="cpu")
    return folder / "model"


def resident(pid: int) -> float:
    """Return the resident memory of a process, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def stage(
    url: str, clients: int, hasty: bool, seconds: int, environment: dict[str, str], folder: Path
) -> dict[str, dict[str, str]]:
    """Let locust's clients ask for a while; return its rows by name."""
    prefix = folder / f"load{clients}{hasty}"
    environment = environment | ({"LOAD_HASTY": "1"} if hasty else {})
    command = [sys.executable, "-m", "locust", "-f", LOCUSTFILE, "--headless", "-u", clients, "-r", clients,
               "-t", f"{seconds}s", "--host", url, "--csv", prefix, "--only-summary", "-L", "WARNING",
               "--stop-timeout", "60", "--exit-code-on-error", "0"]  # fmt: skip
    done = subprocess.run(list(map(str, command)), env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"locust failed:\n{done.stdout}{done.stderr}")
    if "Traceback" in done.stderr:  # an error of the client's own, which locust does not count
        raise SystemExit(f"the clients fail:\n{done.stderr[:2000]}")
    with Path(f"{prefix}_stats.csv").open() as file:
        return {row["Name"]: row for row in csv.DictReader(file)}


def cpu_seconds(url: str, token: str) -> float:
    """Return the CPU time that the server has used, by its own metrics."""
    request = urllib.request.Request(f"{url}/metrics", headers={"Authorization": f"Bearer {token}"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        lines = answer.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith("process_cpu_seconds_total")).split()[1])


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the server and all stages; return what was measured."""
    from inspection_core.engine import Engine
    from inspection_core.geometry import Geometry
    from inspection_core.image import Image
    from inspection_core.infer import predict
    from inspection_core.io.wire import image_to_bytes

    model = options.model or make_model(folder, options.side)
    array = np.random.default_rng(99).integers(90, 166, (1, options.side, options.side), dtype=np.uint8)
    image = Image(array, Geometry.pixels(array.shape[1:]), ("grey",))
    (folder / "body").write_bytes(image_to_bytes(image))
    local = Engine(options.device).load(model)
    predict(image, local)
    times = []
    for _ in range(options.local):
        start, used = time.perf_counter(), time.process_time()
        predict(image, local)
        times.append((time.perf_counter() - start, time.process_time() - used))
    token = secrets.token_urlsafe(32)
    environment = os.environ | {
        "INSPECTION_TOKEN": token,
        "LOAD_BODY": str(folder / "body"),
        "LOAD_PATH": f"/v1/models/{local.card.id}/predict",
        "LOAD_ACCEPT": PREDICTION,
    }
    serve = [sys.executable, "-m", "inspection_core", "serve", model, "--port", "0", "--device", options.device,
             "--queue", options.queue, "--workers", options.workers, "--rate", 1e6]  # fmt: skip
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            list(map(str, serve)), stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )  # fmt: skip
    stages = []
    try:
        shown = server.stdout.readline() if server.stdout else ""
        url = next(word for word in shown.split() if word.startswith("http"))
        start_memory = resident(server.pid)
        for clients, hasty in [*((n, False) for n in options.clients), (max(options.clients), True)]:
            before, started = cpu_seconds(url, token), time.perf_counter()
            rows = stage(url, clients, hasty, options.seconds, environment, folder)
            wall = time.perf_counter() - started
            used = cpu_seconds(url, token) - before
            done, refused = rows.get("predict", {}), rows.get("refused", {})
            stages.append(
                {
                    "clients": f"{clients}, hasty" if hasty else str(clients),
                    "answered": int(done.get("Request Count", 0)),
                    "per_second": float(done.get("Requests/s", 0)),
                    "p50_ms": float(done.get("50%") or 0),
                    "p99_ms": float(done.get("99%") or 0),
                    "refused": int(refused.get("Request Count", 0)),
                    "refused_p99_ms": float(refused.get("99%") or 0),
                    "failed": sum(int(row["Failure Count"]) for name, row in rows.items() if name != "Aggregated"),
                    "cpu_share": used / wall,
                    "cpu_ms": 1000 * used / max(1, int(done.get("Request Count", 0))),
                    "memory_mib": resident(server.pid),
                    "load": os.getloadavg()[0],
                }
            )
            print(stages[-1], file=sys.stderr, flush=True)
        alive = server.poll() is None
    finally:
        server.terminate()
        server.communicate(timeout=120)
    return {
        "stages": stages,
        "local_ms": 1000 * float(np.median([t for t, _ in times])),
        "local_cpu_ms": 1000 * float(np.median([t for _, t in times])),
        "memory_at_start_mib": start_memory,
        "alive": alive,
        "exit_status": server.returncode,
    }


def numbers(text: str) -> list[int]:
    """Return numbers given with commas."""
    return [int(n) for n in text.split(",")]


def main() -> int:
    """Measure; 1 if anything failed that was no refusal."""
    parser = arguments("serving", __doc__)
    parser.add_argument("--clients", type=numbers, default=[1, 2, 4, 8, 32], help="of each stage, with commas")
    parser.add_argument("--seconds", type=int, default=12, help="of each stage")
    parser.add_argument("--queue", type=int, default=6, help="requests that may wait")
    parser.add_argument("--workers", type=int, default=2, help="requests in work at once")
    parser.add_argument("--side", type=int, default=256, help="of the picture, in pixels")
    parser.add_argument("--local", type=int, default=5, help="predictions in this process, for comparison")
    parser.add_argument("--model", type=Path, help="folder of a model for grey pictures; one is fitted if not given")
    options = parser.parse_args()
    if why := lacking("locust", extra="bench") or lacking("fastapi", "uvicorn", extra="serve"):
        return left_out(why)
    facts = machine(PACKAGES, options.device)
    with tempfile.TemporaryDirectory(prefix="serving-") as folder:
        runs = measure(options, Path(folder))
    stages = runs["stages"]
    rows = [[form.format(**stage) for form in COLUMNS.values()] for stage in stages]
    note = (
        f"In one process, without a server: {runs['local_ms']:.0f} ms a picture, {runs['local_cpu_ms']:.0f} ms of CPU "
        f"time, median of {options.local}. Memory of the server at its start: {runs['memory_at_start_mib']:.0f} MiB."
    )
    print(render(write_json(options.out, facts, [table("", list(COLUMNS), rows)], runs, [note])))
    return 0 if runs["alive"] and not any(stage["failed"] for stage in stages) else 1


if __name__ == "__main__":
    raise SystemExit(main())
