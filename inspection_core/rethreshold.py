"""Other thresholds on the scores of a run, without inference; the run itself stays as it is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from inspection_core.card import ModelCard, Policy
from inspection_core.errors import UsageError
from inspection_core.io.store import Row
from inspection_core.runs import card_of, opened
from inspection_core.session import telling
from inspection_core.tables import Filter, write_run_report, write_tables
from inspection_core.threshold import cuts, map_cuts, verdict


@dataclass(frozen=True)
class Rethresholded:
    """Outcome of `rethreshold`.

    Parameters
    ----------
    folder
        Where the files are.
    changes
        ``(before, after) -> number`` of images by verdict.
    counts
        Images by outcome: ``OK``, ``REVIEW``, ``NG``, ``failed``.
    outputs
        Files written.
    warnings
        What the calibration, or what was stored, cannot support.
    """

    folder: Path
    changes: dict[tuple[str, str], int]
    counts: dict[str, int]
    outputs: tuple[Path, ...]
    warnings: tuple[str, ...]


def new_policy(
    policy: Policy,
    max_false_alarms: float | None = None,
    review: float | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Policy:
    """Return a policy with other thresholds; the review rate keeps its ratio to the other, unless it is given.

    Raises
    ------
    UsageError
        If nothing is asked for, or what is asked for does not fit the policy.
    """
    if policy.kind == "band":
        if max_false_alarms is not None or review is not None:
            raise UsageError("This model decides by a band of scores: say --low and --high. It promises no rate.")
        if low is None and high is None:
            raise UsageError("Say which thresholds: --low or --high, or both.")
        return replace(policy, low=policy.low if low is None else low, high=policy.high if high is None else high)
    if low is not None or high is not None:
        raise UsageError("This model decides by p-value: say --max-false-alarms, such as 0.005.")
    if max_false_alarms is None and review is None:
        raise UsageError("Say which rate: --max-false-alarms, such as 0.005.")
    rate = policy.max_false_alarms if max_false_alarms is None else max_false_alarms
    if review is None:
        review = min(1.0, rate * policy.review / policy.max_false_alarms)
    return replace(policy, max_false_alarms=rate, review=review)


def rethreshold(
    run: Path,
    policy: Policy,
    *,
    out: Path | None = None,
    wanted: Filter | None = None,
    formats: Sequence[str] = ("csv", "parquet"),
    database: str | None = None,
    command: str = "",
) -> Rethresholded:
    """Write tables and a report of a run as they would be under another policy.

    Scores and p-values stay. Verdicts are those that a new run would give. Findings are those of the run whose peak is
    still worth one; findings that only a lower threshold would outline are not there, and this is said.

    Parameters
    ----------
    run
        Folder of the run.
    policy
        From `new_policy`.
    out
        Folder for the files; by default one inside the run, named after the threshold.
    wanted
        Which rows to write; all, if not given.
    formats, database
        As for `inspection_core.screen.screen`.

    Raises
    ------
    UsageError
        If `run` holds no run.
    """
    wanted = wanted or Filter()
    with opened(run, database) as store:
        card = card_of(store, run)
        changed = replace(card, policy=policy)
        folder = out or run / _name(policy)
        folder.mkdir(parents=True, exist_ok=True)

        def rows() -> Iterator[Row]:
            return (row for row in rethresholded(store.rows(), card, changed) if wanted.wants(row))

        changes: Counter[tuple[str, str]] = Counter()
        for old, new in zip(store.rows(), rethresholded(store.rows(), card, changed), strict=True):
            changes[old.verdict or "failed", new.verdict or "failed"] += 1
        warnings = list(cuts(policy, card.calibration).warnings)
        if (
            card.task == "anomaly"
            and map_cuts(policy, card.calibration)[1] < map_cuts(card.policy, card.calibration)[1]
        ):
            warnings.append(
                "The new threshold is lower than that of the run: verdicts follow it, but findings are only those that "
                "the run outlined. Screen again for more."
            )
        told = replace(
            telling(
                changed, f"{run.name}: {_name(policy)}", command, notes=("Thresholds changed; nothing was inferred.",)
            ),
            warnings=tuple(warnings),
        )
        outputs = (
            *write_tables(folder, rows, formats),
            write_run_report(folder / "report.html", rows, run.absolute(), told),
        )
    counts = dict.fromkeys(("OK", "REVIEW", "NG", "failed"), 0)
    for (_, after), number in changes.items():
        counts[after] += number
    return Rethresholded(folder, dict(changes), counts, outputs, tuple(warnings))


def rethresholded(rows: Iterator[Row], card: ModelCard, changed: ModelCard) -> Iterator[Row]:
    """Yield rows with the verdicts, and the findings, of another policy."""
    cut = cuts(changed.policy, changed.calibration)
    least = map_cuts(changed.policy, changed.calibration)[1] if card.task == "anomaly" else -math.inf
    for row in rows:
        if row.score is None:
            yield row
            continue
        findings = [f for f in row.details.get("findings", ()) if f["peak"] is None or f["peak"] > least]
        kept = {f["id"] for f in findings}
        crops = [crop for crop in row.details.get("crops", ()) if crop[0] in kept]
        yield replace(
            row,
            verdict=verdict(row.score, cut),
            n_findings=len(findings),
            details={**row.details, "findings": findings, "crops": crops},
        )


def _name(policy: Policy) -> str:
    if policy.kind == "band":
        return f"rethreshold-{policy.low:g}-{policy.high:g}"
    return f"rethreshold-{policy.max_false_alarms:g}"
