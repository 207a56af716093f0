"""Prometheus metrics of one server, in a registry of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

if TYPE_CHECKING:
    from inspection_core.prediction import Prediction
    from inspection_core.serve.gate import Gate

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
IMAGES = (1, 2, 4, 8, 16)
METHODS = ("GET", "POST")
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Figures:
    """What is counted. Labels come from fixed sets: nothing that a client sends becomes one."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        ProcessCollector(registry=r)
        self.requests = Counter("inspection_requests", "Requests answered.", ["route", "status"], registry=r)
        self.seconds = Histogram(
            "inspection_request_seconds", "From first line to last byte.", ["route"], registry=r, buckets=SECONDS
        )
        self.refusals = Counter("inspection_refusals", "Requests refused, by reason.", ["reason"], registry=r)
        self.predictions = Counter("inspection_predictions", "Predictions made.", ["model", "verdict"], registry=r)
        self.steps = Histogram(
            "inspection_step_seconds", "Steps of a prediction.", ["model", "step"], registry=r, buckets=SECONDS
        )
        self.batches = Histogram(
            "inspection_batch_images", "Images that went to the network together.", ["model"], registry=r,
            buckets=IMAGES,
        )  # fmt: skip

    def watch(self, gate: Gate) -> None:
        """Show the state of a gate."""
        shown: tuple[tuple[str, str, Callable[[], float]], ...] = (
            ("inspection_waiting", "Requests on their way, waiting, or being answered.", lambda: gate.waiting),
            ("inspection_running", "Requests in work.", lambda: gate.running),
            ("inspection_held_bytes", "Bytes of uploads that are held.", lambda: gate.held),
            ("inspection_ready", "1 if the next request would be taken.", lambda: gate.why_not_ready() is None),
        )
        for name, text, value in shown:
            Gauge(name, text, registry=self.registry).set_function(value)

    def predicted(self, prediction: Prediction, waited: float) -> None:
        """Count a prediction and its steps."""
        self.predictions.labels(prediction.model_id, prediction.verdict).inc()
        for step, seconds in {"wait": waited, **prediction.timings}.items():
            self.steps.labels(prediction.model_id, step).observe(seconds)

    def text(self) -> bytes:
        """Return all of it in Prometheus's text format."""
        return generate_latest(self.registry)
