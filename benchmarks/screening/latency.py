"""From a frame's last byte to its recorded verdict: a camera that drops frames at a steady rate into a watched folder.

    python benchmarks/screening/latency.py --rate 5 --frames 200 --model MODEL --data FOLDER

Frames are written under another name and renamed, as a camera's software should do it. Latency is what
`inspection watch` reports: from the rename to the commit of the result, messages to a JSON Lines file included in the
same commit.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

from faults import cheap_model, images

from inspection_core.engine import Engine
from inspection_core.io.atomic import write_text
from inspection_core.io.raster import list_images
from inspection_core.publish import JsonLines
from inspection_core.session import Options
from inspection_core.watch import watch


def main(arguments: list[str]) -> int:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--rate", type=float, default=5.0, help="Frames a second.")
    parser.add_argument("--data", type=Path, default=None, help="Folder of real images; generated ones without it.")
    parser.add_argument("--model", default=None, help="Model folder; without it, one that marks bright pixels.")
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args(arguments)
    work = Path(tempfile.mkdtemp(prefix="latency-"))
    images(work / "frames", given.frames + 3, 0.0, given.data, 0)
    frames = list_images(work / "frames")
    model = Engine("cpu").load(given.model or cheap_model(work / "model"))
    drop = work / "drop"
    drop.mkdir()
    for frame in frames[:3]:  # the first frames of a day warm everything up
        shutil.copy(frame, drop)
    options = {"options": Options(pictures="flagged"), "sinks": [JsonLines(work / "told.jsonl")]}
    watch(drop, model, work / "run", idle=0.5, settle=0.1, look=0.2, **options)

    def camera() -> None:
        begin = time.monotonic()
        for number, frame in enumerate(frames[3:]):
            time.sleep(max(0.0, begin + number / given.rate - time.monotonic()))
            hidden = drop / f".{frame.name}"
            shutil.copyfile(frame, hidden)
            hidden.rename(drop / frame.name)

    thread = threading.Thread(target=camera)
    thread.start()
    done = watch(drop, model, work / "run", idle=max(3.0, 3 / given.rate), **options)
    thread.join()
    result = {"frames": done.done, "rate": given.rate, "model": model.card.id, **done.figures}
    print(json.dumps(result, indent=2))
    if given.json:
        write_text(given.json, json.dumps(result, indent=2) + "\n")
    shutil.rmtree(work)
    return 0 if done.done == given.frames else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
