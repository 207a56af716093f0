"""The peer of `benchmarks/screening_speed.py`: anomalib's PatchCore, one JSON line in and one out for each task.

It runs in an environment of its own; the first lines of `benchmarks/accuracy/peer_patchcore.py` say how to make it, and
its backbone, weights and steps from file to score are taken from there. The tasks, ``{"do": ...}``:

``memory``
    Describe the images of `images` and choose `ratio` of their patches, by anomalib's own code; kept in `file`, and
    read from there where it is. Gives ``references``, and the ``seconds`` and ``cpu_seconds`` of the choice.
``score``
    Take `images` from file to raw score, one after the other, with the memory in `file`. Gives wall and CPU seconds of
    all together, the raw scores, and the peak resident memory in MiB.
``choose``
    Choose `count` of the vectors in the ``.npy`` `file`; gives their ``numbers`` and the seconds.
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
from safetensors.torch import load_file, save_file

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


def memory(model: Patchcore, images: list[str], ratio: float, file: str) -> dict[str, Any]:
    """Make the memory of some good images."""
    if not Path(file).exists():
        seed_everything(0)
        inner = model.model
        inner.training = True  # the network itself stays in evaluation
        with torch.inference_mode():
            for path in images:
                inner(prepared(model, path))
            started, cpu = time.perf_counter(), time.process_time()
            inner.subsample_embedding(ratio)
            took = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
        inner.training = False
        meta = {key: str(value) for key, value in took.items()}
        save_file({"memory": inner.memory_bank.clone()}, file, metadata=meta)
        Path(f"{file}.json").write_text(json.dumps(took))
    kept = json.loads(Path(f"{file}.json").read_text())
    return {"references": len(load_file(file)["memory"]), **kept}


@torch.inference_mode()
def score(model: Patchcore, images: list[str], file: str) -> dict[str, Any]:
    """Score images from their files."""
    model.model.memory_bank = load_file(file)["memory"]
    model.model(prepared(model, images[0]))
    started, cpu = time.perf_counter(), time.process_time()
    scores = [float(model.model(prepared(model, path)).pred_score) for path in images]
    took = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {**took, "scores": scores, "peak_mib": round(peak)}


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
    tasks = {"memory": memory, "score": score, "choose": choose}
    versions = {name: version(name) for name in ("anomalib", "torch", "timm")}
    print(json.dumps({"ready": True, "versions": versions}), file=out, flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        print(json.dumps(tasks[task.pop("do")](model, **task)), file=out, flush=True)


if __name__ == "__main__":
    main()
