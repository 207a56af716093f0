"""Training of one network: steps, moving average, checkpoints and the learning curve."""

from __future__ import annotations

import csv
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.data.meta_obj import get_track_meta, set_track_meta
from monai.losses.dice import DiceCELoss
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from inspection_core.card import ModelCard
from inspection_core.device import Device
from inspection_core.errors import ModelError, UsageError
from inspection_core.io.atomic import atomic_path
from inspection_core.segmentation_metrics import dice
from inspection_core.sweep import sweep
from inspection_core.training.augment import Augment
from inspection_core.training.config import Config
from inspection_core.training.samples import Study, cut_block, cut_slice, draw, padded
from inspection_core.training.stop import stop_between_steps

CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"
KEEP_EVERY = 60.0
"""Seconds between two checkpoints."""
COLUMNS = ("step", "samples", "stage", "rate", "loss", "dice", "seconds", "samples_per_second")
Show = Callable[[str, int, int], None]


class Run:
    """One network in training.

    Parameters
    ----------
    config
        The configuration.
    network
        Untrained, on the CPU, its encoder perhaps filled.
    encoder
        Its parameters that learn at the encoder's rate.
    folder
        Of checkpoint and log. What is there is gone on with.
    device
        To train on.
    fold
        Number of the network; part of every random choice.
    """

    def __init__(
        self, config: Config, network: nn.Module, encoder: nn.Module | None, folder: Path, device: Device, fold: int
    ) -> None:
        self.config, self.folder, self.device, self.fold = config, folder, device, fold
        self.network = network.to(device.torch)
        if config.card.preparation.view == "slices":
            self.network = self.network.to(memory_format=torch.channels_last)
        moving: Any = get_ema_multi_avg_fn
        self.average = AveragedModel(self.network, multi_avg_fn=moving(config.training.average), use_buffers=True)
        inner = {id(p) for p in encoder.parameters()} if encoder is not None else set()
        training = config.training
        groups = [
            {"params": [p for p in self.network.parameters() if id(p) in inner], "peak": training.encoder_rate},
            {"params": [p for p in self.network.parameters() if id(p) not in inner], "peak": training.rate},
        ]
        self.optimiser = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=0.0, weight_decay=training.weight_decay
        )
        self.step = 0
        self.seconds = 0.0
        self._losses: list[float] = []
        """Since the last row of the log, which `_told` says the time and step of."""
        self._told = (0.0, 0)
        self.steps = [max(1, round(stage.samples / training.batch)) for stage in training.stages]
        self._loss = DiceCELoss(
            include_background=False,
            to_onehot_y=True,
            softmax=True,
            batch=True,
            lambda_dice=training.dice,
            lambda_ce=training.cross_entropy,
        )

    @property
    def total(self) -> int:
        """Steps of all stages."""
        return sum(self.steps)

    def train(self, studies: Sequence[Study], held_back: Sequence[Study], show: Show) -> None:
        """Train to the end, from the last checkpoint if there is one.

        Raises
        ------
        UsageError
            If the checkpoint is of another configuration.
        ModelError
            If the loss is no longer finite.
        KeyboardInterrupt
            If SIGINT or SIGTERM came: after the step at hand, which is in the checkpoint then.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        tracked = get_track_meta()
        set_track_meta(False)  # MONAI's bookkeeping of affines takes longer than the changes
        try:
            with stop_between_steps() as asked:
                self._steps(studies, held_back, show, asked)
        finally:
            set_track_meta(tracked)

    def _steps(
        self, studies: Sequence[Study], held_back: Sequence[Study], show: Show, asked: Callable[[], bool]
    ) -> None:
        training, card = self.config.training, self.config.card
        augments = [Augment(self.config.augmentation, stage, card.channels) for stage in training.stages]
        ends = np.cumsum(self.steps)
        kept = time.monotonic()
        if self._losses:  # stopped between a step and its row in the log
            self._tell(held_back)
        began = time.monotonic()
        while self.step < self.total:
            stage = int(np.searchsorted(ends, self.step, side="right"))
            self._losses.append(self._one_step(studies, augments[stage], stage))
            now = time.monotonic()
            self.seconds, began = self.seconds + now - began, now
            if asked():
                self._keep()
                raise KeyboardInterrupt(f"after step {self.step} of {self.total} of fold {self.fold}, which is kept")
            self._tell(held_back)
            began = time.monotonic()
            if began - kept > KEEP_EVERY or self.step == self.total:
                self._keep()
                kept = began = time.monotonic()
            show(f"fold {self.fold}", self.step, self.total)

    def _tell(self, held_back: Sequence[Study]) -> None:
        """Write a row of the log, where this step gets one: every fifty, and eight in a run with the Dice."""
        training = self.config.training
        marks = {round(self.total * k / 8) for k in range(1, 9)}
        if self.step not in marks and self.step % 50:
            return
        if not np.isfinite(self._losses[-1]):
            raise ModelError(f"The loss is {self._losses[-1]} at step {self.step}. Lower training.rate, start anew.")
        dice = self.dice(held_back[: training.validate]) if self.step in marks and held_back else None
        seconds, step = self._told
        speed = (self.step - step) * training.batch / max(self.seconds - seconds, 1e-9)
        stage = int(np.searchsorted(np.cumsum(self.steps), self.step - 1, side="right"))
        self._log(stage, float(np.mean(self._losses)), dice, speed)
        self._losses, self._told = [], (self.seconds, self.step)

    def _one_step(self, studies: Sequence[Study], augment: Augment, stage: int) -> float:
        training, preparation = self.config.training, self.config.card.preparation
        flat = preparation.view == "slices"
        seed = _seed(training.seed, self.fold, self.step)
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        pairs = []
        augment.seed(seed)
        for where in draw(studies, training.batch, training.foreground, flat, rng):
            study = studies[where.study]
            if flat:
                chance = rng.random()
                p = self.config.augmentation.neighbour_step
                step = 2 if chance < p else 0 if chance < 2 * p else 1
                pixels, label = cut_slice(study, where.centre[0], preparation.neighbours, step)
            else:
                size = [round(n * training.stages[stage].zoom) for n in training.stages[stage].size]
                pixels, label = cut_block(study, where.centre, size)
            pairs.append(augment(pixels, label))
        pixels = torch.stack([p for p, _ in pairs]).to(self.device.torch, non_blocking=True)
        labels = torch.stack([y for _, y in pairs]).to(self.device.torch, non_blocking=True)
        if flat:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * self._rate(self.step)
        self.network.train()
        loss = self._loss(self.network(pixels), labels)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), training.clip)
        self.optimiser.step()
        self.average.update_parameters(self.network)
        self.step += 1
        return float(loss.detach())

    def _rate(self, step: int) -> float:
        warm = self.config.training.warm_up
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, self.total - warm))))

    @torch.no_grad()
    def dice(self, studies: Sequence[Study]) -> float:
        """Return the mean Dice over patients, all classes together as one, of the averaged network."""
        network = self.averaged()
        return float(np.mean([_dice(probabilities(network, s, self.config.card, self.device), s) for s in studies]))

    def averaged(self) -> nn.Module:
        """Return the network with averaged weights, for inference."""
        network: nn.Module = self.average.module
        return network.eval()

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        state = {
            "config": _mark(self.config),
            "step": self.step,
            "seconds": self.seconds,
            "losses": self._losses,
            "told": self._told,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        with atomic_path(self.folder / CHECKPOINT) as temporary:
            torch.save(state, temporary)

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.is_file():
            return
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise UsageError(
                f"The checkpoint {path} cannot be read ({type(error).__name__}). Remove it to begin anew."
            ) from error
        if state["config"] != _mark(self.config):
            raise UsageError(
                f"{self.folder} holds a run of another configuration. Choose another --out, or remove that folder."
            )
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        self._losses, self._told = list(state.get("losses", [])), state.get("told", (self.seconds, self.step))

    def _log(self, stage: int, loss: float, dice: float | None, speed: float) -> None:
        path = self.folder / LOG
        rows: list[dict[str, Any]] = []
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:  # what was done again after a stop is said once
                rows = [r for r in csv.DictReader(file) if int(r["step"]) < self.step]
        row: dict[str, Any] = {
            "step": self.step,
            "samples": self.step * self.config.training.batch,
            "stage": stage,
            "rate": f"{self._rate(self.step - 1):.4f}",
            "loss": f"{loss:.4f}",
            "dice": "" if dice is None else f"{dice:.4f}",
            "seconds": f"{self.seconds:.0f}",
            "samples_per_second": f"{speed:.2f}",
        }
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as target:
            writer = csv.DictWriter(target, COLUMNS)
            writer.writeheader()
            writer.writerows([*rows, row])


def probabilities(network: nn.Module, study: Study, card: ModelCard, device: Device) -> Tensor:
    """Return class probabilities ``(1 + K, d, h, w)`` of a prepared study, by the way that inference goes."""
    preparation = card.preparation
    pixels = padded(study.pixels, preparation)

    def soft(batch: Tensor) -> Tensor:
        return cast("Tensor", network(batch).softmax(dim=1))

    found = sweep(soft, pixels, device, preparation, 1, 1 + len(card.classes))
    return torch.from_numpy(found)[(slice(None), *(slice(n) for n in study.labels.shape))]


def _dice(found: Tensor, study: Study) -> float:
    return dice((found.argmax(dim=0) > 0).numpy(), (study.labels > 0).numpy())


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence([p % 2**32 for p in parts]).generate_state(1)[0])


def _mark(config: Config) -> str:
    """Return what tells runs apart: everything that changes a network's way, and nothing that only describes it."""
    card, data = config.card, config.data
    told = (card.architecture, card.channels, card.classes, asdict(card.preparation), dict(card.parameters))
    text = repr((told, data.folders, data.held_back, config.training, config.augmentation))
    return hashlib.sha256(text.encode()).hexdigest()
