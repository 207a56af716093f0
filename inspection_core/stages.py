"""What is done to each of many inputs, stage by stage; `inspection_core.pipeline` does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Ready = TypeVar("Ready")
Result = TypeVar("Result")

GROUP = 64
"""Most results that are recorded together."""

PAUSE = 0.05
"""Seconds from one recording to the next while results keep coming: a transaction takes longer than its rows."""

PATIENCE = 0.1
"""Seconds after which a waiting stage looks whether it should stop."""


@dataclass(frozen=True)
class Finished(Generic[Result]):
    """What `Stages.read` gives for an input that needs no network: its result."""

    result: Result


@dataclass(frozen=True)
class Stages(Generic[Item, Ready, Result]):
    """What each stage does.

    Parameters
    ----------
    read
        In threads: gets an input ready for the network, or gives its result at once where it needs none.
    weight
        How many places a ready input takes in a batch.
    infer
        In the calling thread, or in several: sends inputs through the network together; gives what `finish` takes, in
        order.
    finish
        In threads: makes the result and writes its files.
    record
        In one thread, in order: takes a few results, or one.
    """

    read: Callable[[Item], Ready | Finished[Result]]
    weight: Callable[[Ready], int]
    infer: Callable[[Sequence[Ready]], Sequence[Any]]
    finish: Callable[[Any], Result]
    record: Callable[[Sequence[Result]], None]
