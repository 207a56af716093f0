"""The same screening on a Ray cluster: actors that each hold the model, fed through Ray Data.

Every node must see the screened folder, the model and the run's folder under the same paths, and have the suite
installed. Actors write pictures and results into the run's folder; this process alone writes to the database. Where an
actor or its node dies, Ray has its images done elsewhere, as often as it takes; so an actor notes beside the results
what it has begun, and an image that kills actors again and again is given up.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from inspection_core import pipeline
from inspection_core.engine import Engine, LoadedModel
from inspection_core.errors import UsageError
from inspection_core.inspector import FATAL, SUSPECT, Inspector, Task, Touched, given_up
from inspection_core.io.store import Row
from inspection_core.session import Options, Record, Session, Work

BATCH = 16
"""Images that an actor takes at once, and at most has to be done again when it dies."""

BEGUN = ".begun"
"""Folder in that of the run with a file for what actors have begun and not ended, a byte for each time."""


class Actor:
    """Holds a model and does images with it; one a process of the cluster.

    Parameters
    ----------
    model
        Folder of the model.
    device
        As for `inspection_core.engine.Engine`.
    run, source
        As for `inspection_core.inspector.Inspector`.
    options, total
        Of the run, and its number of inputs.
    """

    def __init__(self, model: str, device: str, run: str, source: str, options: Options, total: int) -> None:
        self.model = Engine(device).load(model)
        self.begun = Path(run) / BEGUN
        self.inspector = Inspector(
            self.model,
            Path(run),
            Path(source),
            formats=options.files,
            kept=options.kept(total),
            choices=options.choices,
        )

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do a few tasks, with the same overlapping stages as on one machine; one by one if actors died with them."""
        tasks: list[Task] = list(batch["item"])
        done: list[Row | Touched] = []
        together = self._mark([task.name for task in tasks])
        deaths = _begin(together)
        if deaths < SUSPECT:
            self._do(tasks, done)
        else:
            for task in tasks:
                own = self._mark([task.name, "alone"])
                alone = _begin(own)
                if alone < FATAL:
                    self._do([task], done)
                else:
                    done.append(given_up(task, deaths))
                own.unlink(missing_ok=True)
        together.unlink(missing_ok=True)
        return {"item": done}

    def _do(self, tasks: list[Task], done: list[Row | Touched]) -> None:
        pipeline.run(tasks, self.inspector.stages(done.extend), batch=self.model.device.batch)

    def _mark(self, names: list[str]) -> Path:
        return self.begun / hashlib.sha256("\0".join(names).encode()).hexdigest()[:32]


def _begin(mark: Path) -> int:
    """Note that something is begun; return how often it was before, and never ended."""
    mark.parent.mkdir(parents=True, exist_ok=True)
    with mark.open("ab") as file:
        before = file.tell()
        file.write(b"x")
    return before


def on_ray(address: str, *, device: str = "auto", workers: int | None = None) -> Work:
    """Return what does a screening's work on a Ray cluster; see `inspection_core.screen.screen`.

    Parameters
    ----------
    address
        Of the cluster's head, such as ``"10.0.0.1:6379"``; ``"auto"`` for the one that this machine belongs to.
    device
        For the actors: ``"cpu"`` takes one core each, ``"cuda"`` one GPU each; ``"auto"`` what the cluster has.
    workers
        Most actors; as many as the cluster has room for, if not given.

    Raises
    ------
    UsageError
        If Ray is not installed, or there is no such cluster.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError('--ray needs Ray: pip install "inspection-suite[cluster]"') from error
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise UsageError(
            f"There is no Ray cluster at {address!r}. Start one with `ray start --head`, or give HOST:PORT."
        ) from error

    def work(session: Session, tasks: Iterator[Task], record: Record) -> None:
        try:
            _work(session, list(tasks), record, device, workers)
        finally:
            ray.shutdown()

    return work


def _work(
    session: Session,
    tasks: list[Task],
    record: Record,
    device: str,
    workers: int | None,
) -> None:
    import ray
    import ray.data

    if not tasks:
        return
    _check_portable(tasks)
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus = int(there.get("GPU", 0))
    on_gpu = device.startswith("cuda") or (device == "auto" and gpus > 0)
    room = max(1, gpus if on_gpu else int(there.get("CPU", 1)))
    actors = max(1, min(workers or room, room, -(-len(tasks) // BATCH)))
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # that objects are pickled is no news
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    blocks = -(-len(tasks) // BATCH)
    folder = cast("LoadedModel", session.model).folder  # the command line lets no other model in
    begun = session.run / BEGUN
    shutil.rmtree(begun, ignore_errors=True)  # of a call that was killed: nobody knows what it died of
    data = ray.data.from_items([{"item": task} for task in tasks], override_num_blocks=blocks)
    done = data.map_batches(
        Actor,
        fn_constructor_args=(
            str(folder),
            "cuda" if on_gpu else "cpu" if device == "auto" else device,
            str(session.run.absolute()),
            str(session.source),
            session.options,
            int(session.store.facts()["inputs"]),
        ),
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
        num_cpus=0 if on_gpu else 1,
        num_gpus=1 if on_gpu else 0,
    )
    for batch in done.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1):
        record(list(batch["item"]))
    shutil.rmtree(begun, ignore_errors=True)


def _check_portable(tasks: list[Task]) -> None:
    """Refuse scans that cannot be sent to another process: those in an archive."""
    for task in tasks:
        if task.item.kind != "picture":
            try:
                pickle.dumps(task)
            except TypeError as error:
                raise UsageError(f"{task.name} lies in an archive. Unpack it, or screen without --ray.") from error
