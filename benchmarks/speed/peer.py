"""The peer of `benchmarks/screening_speed.py`: anomalib's PatchCore, one JSON line in and one out for each task.

It runs in an environment of its own; the first lines of `benchmarks/accuracy/peer_patchcore.py` say how to make it, and
its backbone, weights and steps from file to score are taken from there. The tasks, ``{"do": ...}``:

``describe``
    Write the patches of `images`, as anomalib makes them, to the ``.npy`` `file`. Gives their number.
``choose``
    Choose `count` of the vectors in `file` by anomalib's own code; gives their ``numbers`` and the seconds.
``score``
    Take `images` from file to raw score, one after the other, with the vectors `numbers` of `file` as memory. Gives
    wall and CPU seconds of all together, and the peak resident memory in MiB.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anomalib.data.utils import read_image
from anomalib.models import Patchcore
from anomalib.models.components import KCenterGreedy
from lightning import seed_everything

sys.path.append(str(Path(__file__).parents[1] / "accuracy"))
from peer_patchcore import BACKBONE, LAYERS, fill, package_weights


def make() -> Patchcore:
    """Return a PatchCore with the package's weights and no memory."""
    model = Patchcore(backbone=BACKBONE, layers=list(LAYERS), pre_trained=False, visualizer=False)
    fill(model, package_weights())
    return model.eval()


def prepared(model: Patchcore, path: str) -> torch.Tensor:
    """Read an image and bring it to the network's input, as anomalib's own evaluation does."""
    return model.pre_processor.transform(read_image(path, as_tensor=True)[None])


@torch.inference_mode()
def describe(model: Patchcore, images: list[str], file: str) -> dict[str, Any]:
    """Write the patches of some good images."""
    inner = model.model
    inner.training = True  # the network itself stays in evaluation
    for path in images:
        inner(prepared(model, path))
    inner.training = False
    patches = torch.vstack(inner.embedding_store)
    inner.embedding_store.clear()
    np.save(file, patches.numpy())
    return {"patches": len(patches)}


@torch.inference_mode()
def score(model: Patchcore, images: list[str], file: str, numbers: list[int]) -> dict[str, Any]:
    """Score images from their files."""
    model.model.memory_bank = torch.from_numpy(np.load(file)[numbers])
    model.model(prepared(model, images[0]))
    started, cpu = time.perf_counter(), time.process_time()
    for path in images:
        float(model.model(prepared(model, path)).pred_score)
    took = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    return {**took, "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def choose(_: Patchcore, file: str, count: int) -> dict[str, Any]:
    """Choose a coreset of vectors."""
    vectors = torch.from_numpy(np.load(file))
    seed_everything(0)
    started, cpu = time.perf_counter(), time.process_time()
    numbers = KCenterGreedy(vectors, (count + 0.5) / len(vectors)).select_coreset_idxs()
    return {
        "seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu, "numbers": numbers,
    }  # fmt: skip


def main() -> None:
    """Do the tasks that come, one a line."""
    out = sys.stdout
    sys.stdout = sys.stderr  # anomalib and its libraries print
    torch.set_num_threads(int(sys.argv[1]))
    model = make()
    tasks = {"describe": describe, "choose": choose, "score": score}
    versions = {name: version(name) for name in ("anomalib", "torch", "timm")}
    print(json.dumps({"ready": True, "versions": versions}), file=out, flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        print(json.dumps(tasks[task.pop("do")](model, **task)), file=out, flush=True)


if __name__ == "__main__":
    main()
