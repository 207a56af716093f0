"""Screening under fire: kills at random moments, bad files and a full disk; then every input must be there once.

A run of many images is killed (SIGKILL) again and again at random moments, each time with all that it has in work, and
gone on with by the same call. Once it runs on a small tmpfs that gets full. In the end it is compared with a run of the
same images that nothing happened to: rows bit for bit, masks byte for byte.

    python benchmarks/screening/faults.py --images 2000 --kills 20

Each attempt is a fork of one process that has the libraries and the model in memory, so that the kills hit the work
and not the imports. Needs Linux; the full disk needs root, and is left out (and said so) without it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from inspection_core.engine import Engine, LoadedModel
from inspection_core.io.raster import list_images
from inspection_core.io.store import RunStore
from inspection_core.runs import compare
from inspection_core.screen import screen
from inspection_core.session import Options
from inspection_core.testing import bright_model

OPTIONS = Options(("masks",), pictures="none")
FULL = 3
"""Exit status of an attempt that met a full disk."""


def images(
    folder: Path, count: int, share_bad: float, data: Path | None, seed: int, crop: int | None = None
) -> set[str]:
    """Write images and bad files; return the names of the bad ones."""
    generator = np.random.default_rng(seed)
    sources = list_images(data)[:200] if data else []
    decoded = [np.asarray(PIL.Image.open(p).convert("L"))[:crop, :crop] for p in sources]
    bad = set(generator.choice(count, round(share_bad * count), replace=False).tolist())
    names = set()
    for i in range(count):
        path = folder / f"part{i // 500:02}" / f"{i:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = decoded[i % len(decoded)].copy() if decoded else generator.integers(0, 180, (64, 64)).astype(np.uint8)
        # Changed pixels: no two files are equal.
        rows, columns = (generator.integers(0, n, 40) for n in pixels.shape)
        pixels[rows, columns] = generator.integers(0, 200, 40)
        if i % 3 == 0:
            pixels[5:15, 5:15] = 250
        PIL.Image.fromarray(pixels).save(path, compress_level=1)
        if i in bad:
            whole = path.read_bytes()
            path.write_bytes([b"", whole[: len(whole) // 2], b"no picture", whole[:8] + bytes(40)][i % 4])
            names.add(path.relative_to(folder).as_posix())
    return names


def cheap_model(folder: Path) -> Path:
    """Make a model that marks bright pixels: no network, so that the machinery takes most of the time."""
    bright_model(folder, tile=512, low=0.9)
    return folder


def attempt(source: Path, model: LoadedModel, run: Path, after: float | None) -> tuple[int, float]:
    """Run once in a fork; kill it after so many seconds of CPU time. Return exit status (-9: killed), CPU seconds."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            screen(source, model, run, options=OPTIONS)
            status = 0
        except OSError as error:
            print(f"  stopped: {error}", flush=True)
            status = FULL
        except BaseException as error:  # noqa: BLE001 - told by its status
            print(f"  {type(error).__name__}: {error}", flush=True)
        os._exit(status)
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
        if after is not None and cpu(pid) >= after:
            os.kill(pid, signal.SIGKILL)
            after = None
        time.sleep(0.01)


def cpu(pid: int) -> float:
    """Return the CPU seconds of a process: a clock that other programs do not disturb."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


@contextlib.contextmanager
def small_disk(folder: Path, size: int | None):
    """Make a folder a disk of so many bytes; yield what makes it large."""
    folder.mkdir(parents=True, exist_ok=True)
    if size is None:
        yield lambda: None
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=4g", str(folder)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def can_mount() -> bool:
    """Tell whether this process may mount a tmpfs."""
    with tempfile.TemporaryDirectory() as folder:
        asked = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
        done = subprocess.run(asked, capture_output=True, check=False).returncode == 0
        if done:
            subprocess.run(["umount", folder], check=True)
        return done


def main(arguments: list[str]) -> int:
    """Do all of it; return 0 if every input is there once and equal."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--bad", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=None, help="Folder of real images; generated ones without it.")
    parser.add_argument("--crop", type=int, default=None, help="Take this many rows and columns of the real images.")
    parser.add_argument("--model", default=None, help="Model folder; without it, one that marks bright pixels.")
    parser.add_argument("--work", type=Path, default=None, help="Folder to work in; a temporary one without it.")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)  # forks of a process with threads would hang
    work = given.work or Path(tempfile.mkdtemp(prefix="faults-"))
    source, calm, hot = work / "images", work / "calm", work / "disk" / "run"
    bad = images(source, given.images, given.bad, given.data, given.seed, given.crop)
    model = Engine("cpu").load(given.model or cheap_model(work / "model"))
    print(f"{given.images} images, {len(bad)} bad, model {model.card.id}", flush=True)
    images(work / "warm", 3, 0.0, given.data, given.seed, given.crop)
    screen(work / "warm", model, work / "warm-run", options=OPTIONS)  # every library is in memory before the forks

    status, whole = attempt(source, model, calm, None)
    if status:
        raise SystemExit(f"the undisturbed run ended with status {status}")
    print(f"undisturbed: {whole:.1f} s of CPU", flush=True)
    used = sum(p.stat().st_size for p in calm.rglob("*") if p.is_file())
    disk = can_mount()
    generator = np.random.default_rng(given.seed + 1)
    kills = full = attempts = 0
    with small_disk(hot.parent, max(2 << 20, used // 2) if disk else None) as grow:
        while True:
            left = given.kills - kills
            # Spread over the work, and now and then at its very beginning.
            after = float(generator.uniform(0, 2 * whole / given.kills)) if left else None
            status, _ = attempt(source, model, hot, after)
            attempts += 1
            if status == -signal.SIGKILL:
                kills += 1
            elif status == FULL:
                full += 1
                grow()
            elif status == 0 and not left:
                break
            elif status == 0:
                shutil.rmtree(hot)  # done before its time: from the beginning, so that all kills hit work
            else:
                raise SystemExit(f"an attempt ended with status {status}")
        differences = compare(calm, hot)
        with RunStore(hot) as store:
            rows = list(store.rows())
        names = [p.relative_to(source).as_posix() for p in list_images(source)]
        # A kill may leave a hidden temporary file behind, which is no result.
        masks, hot_masks = (
            {p.relative_to(run / "masks"): p.read_bytes() for p in (run / "masks").rglob("[!.]*.png")}
            for run in (calm, hot)
        )
    result = {
        "images": given.images,
        "bad": len(bad),
        "kills": kills,
        "full_disks": full,
        "attempts": attempts,
        "model": model.card.id,
        "every_input_once": [r.path for r in rows] == sorted(names),
        "failed_are_the_bad": {r.path for r in rows if r.status == "failed"} == bad,
        "rows_identical": differences.identical,
        "masks_identical": masks == hot_masks and len(masks) == given.images - len(bad),
        "cpu_seconds_undisturbed": round(whole, 1),
    }
    if not disk:
        print("the full disk was left out: mounting a tmpfs needs root")
    print(json.dumps(result, indent=2))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if given.work is None:
        shutil.rmtree(work)
    wanted = ("every_input_once", "failed_are_the_bad", "rows_identical", "masks_identical")
    return 0 if all(result[key] for key in wanted) and kills == given.kills and full == int(disk) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
