"""From finished runs to one table: ``results.json`` (all the report needs) and ``results.csv`` (the table alone)."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vademecum import files
from vademecum.compare import stats
from vademecum.compare.stats import Estimate

Run = Mapping[str, Any]
"""One run's ``result.json``, as :mod:`vademecum.compare.measure` writes it."""

Rounds = Iterable[Mapping[str, Any]]
"""Timed chunks of one (source, seed): {"round", "arm", "tokens", "seconds"}."""


@dataclass(frozen=True)
class Row:
    """One arm on one source. Bits per byte are of held-out text; times are of training alone; memory is in bytes.

    ``difference`` is the arm less the baseline, paired by seed; ``verdict`` is what it supports, in words.
    ``seconds_to_baseline`` is the training time until the arm's held-out curve reaches the baseline's last value,
    None if any seed never does. ``knockout_difference`` is the loss with the memory silenced less the loss with it,
    paired by seed. ``skipped`` counts steps that were not finite, over all seeds; ``diverged`` the seeds that were
    given up and are in no number here.
    """

    data: str
    arm: str
    seeds: int
    bits_per_byte: Estimate
    difference: Estimate | None
    verdict: str
    total_params: int
    active_params: int
    flops_per_token: float
    bytes_per_token: int
    tokens_per_second: float
    speed_ratio: Estimate | None
    seconds_to_baseline: Estimate | None
    peak_memory: int | None
    tokens: int
    seconds: float
    knockout: Estimate | None
    knockout_difference: Estimate | None = None
    skipped: int = 0
    diverged: int = 0


def speeds(rounds: Rounds, baseline: str) -> dict[str, tuple[float, float | None]]:
    """Per arm: median tokens/s over chunks, and the median over rounds of its ratio to the baseline's.

    Chunks of one round ran within seconds of each other, so what else the machine did cancels out of the ratio.
    """
    by_round: dict[str, dict[str, float]] = defaultdict(dict)
    by_arm: dict[str, list[float]] = defaultdict(list)
    for chunk in rounds:
        if chunk["seconds"] > 0:
            speed = chunk["tokens"] / chunk["seconds"]
            by_round[str(chunk["round"])][chunk["arm"]] = speed
            by_arm[chunk["arm"]].append(speed)
    result: dict[str, tuple[float, float | None]] = {}
    for arm, values in by_arm.items():
        ratios = [of[arm] / of[baseline] for of in by_round.values() if arm in of and baseline in of]
        result[arm] = (stats.median(values), stats.median(ratios) if ratios else None)
    return result


def seconds_to_reach(curve: Sequence[Mapping[str, float]], target: float) -> float | None:
    """Seconds at which a held-out ``curve`` ({"seconds", "bpb"}, in order) first reaches ``target``, interpolated."""
    before: Mapping[str, float] | None = None
    for point in curve:
        if point["bpb"] <= target:
            if before is None or before["bpb"] <= point["bpb"]:
                return point["seconds"]
            share = (before["bpb"] - target) / (before["bpb"] - point["bpb"])
            return before["seconds"] + share * (point["seconds"] - before["seconds"])
        before = point
    return None


def rows(
    runs: Sequence[Run], timings: Mapping[tuple[str, int], Rounds], peaks: Mapping[str, int | None], baseline: str
) -> list[Row]:
    """The table, in the order of ``runs``. Arms without a baseline beside them get no difference.

    Runs that diverged have no numbers: an arm of which all did gets no row, and one of which some did no verdict.
    """
    grouped: dict[tuple[str, str], dict[int, Run]] = {}
    lost: Counter[tuple[str, str]] = Counter()
    for run in runs:
        if run.get("diverged") is not None:
            lost[run["data"], run["arm"]] += 1
        else:
            grouped.setdefault((run["data"], run["arm"]), {})[run["seed"]] = run
    speed = {key: speeds(rounds, baseline) for key, rounds in timings.items()}
    table = []
    for (data, arm), by_seed in grouped.items():
        base = grouped.get((data, baseline), {})
        table.append(
            _row(
                data,
                arm,
                by_seed,
                base,
                {s: speed.get((data, s), {}).get(arm) for s in by_seed},
                peaks.get(arm),
                baseline,
                lost[data, arm],
            )
        )
    return table


def _row(
    data: str,
    arm: str,
    by_seed: Mapping[int, Run],
    base: Mapping[int, Run],
    speed: Mapping[int, tuple[float, float | None] | None],
    peak: int | None,
    baseline: str,
    diverged: int,
) -> Row:
    first = next(iter(by_seed.values()))
    cost = first["cost"]
    difference = None
    if arm != baseline:
        difference = stats.paired(_values(by_seed, "bits_per_byte"), _values(base, "bits_per_byte"))
    knocked = {seed: run["knockout"] for seed, run in by_seed.items() if run["knockout"] is not None}
    verdict = "baseline" if arm == baseline else stats.verdict(difference)
    reached = [
        seconds_to_reach(by_seed[s]["curve"], base[s]["curve"][-1]["bpb"])
        for s in by_seed
        if s in base and base[s]["curve"]
    ]
    ratios = [value[1] for value in speed.values() if value is not None and value[1] is not None]
    rates = [value[0] for value in speed.values() if value is not None]
    return Row(
        data=data,
        arm=arm,
        seeds=len(by_seed),
        bits_per_byte=stats.estimate(list(_values(by_seed, "bits_per_byte").values())),
        difference=difference,
        verdict=f"{diverged_words(diverged)}: no claim" if diverged and arm != baseline else verdict,
        total_params=cost["total_params"],
        active_params=cost["active_params"],
        flops_per_token=cost["flops_per_token"],
        bytes_per_token=cost["bytes_per_token"],
        tokens_per_second=_mean(rates) if rates else first["tokens"] / max(first["seconds"], 1e-9),
        speed_ratio=stats.estimate(ratios) if ratios else None,
        seconds_to_baseline=stats.estimate([r for r in reached if r is not None])
        if reached and None not in reached
        else None,
        peak_memory=peak,
        tokens=first["tokens"],
        seconds=_mean([run["seconds"] for run in by_seed.values()]),
        knockout=stats.estimate(list(knocked.values())) if knocked else None,
        knockout_difference=stats.paired(knocked, _values(by_seed, "bits_per_byte")) if knocked else None,
        skipped=sum(run.get("skipped", 0) for run in by_seed.values()),
        diverged=diverged,
    )


def diverged_words(count: int) -> str:
    """How many seeds diverged: "1 seed diverged", "2 seeds diverged"."""
    return f"{count} seed{'' if count == 1 else 's'} diverged"


def _values(by_seed: Mapping[int, Run], key: str) -> dict[int, float]:
    return {seed: by_seed[seed][key] for seed in sorted(by_seed)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


COLUMNS: tuple[tuple[str, str], ...] = (
    ("data", "source"),
    ("arm", "arm"),
    ("seeds", "seeds"),
    ("bits_per_byte", "held-out bits per byte"),
    ("bits_per_byte_interval", "half width of its 95 % interval"),
    ("difference", "difference to the baseline, paired"),
    ("difference_interval", "half width of its 95 % interval"),
    ("verdict", "what the difference supports"),
    ("total_params", "total parameters"),
    ("active_params", "active parameters"),
    ("flops_per_token", "FLOPs per token, forward"),
    ("bytes_per_token", "bytes read per token"),
    ("tokens_per_second", "training tokens per second"),
    ("speed_ratio", "tokens per second over the baseline's, paired"),
    ("speed_ratio_interval", "half width of its 95 % interval"),
    ("seconds_to_baseline", "seconds to reach the baseline's final loss, empty where a seed never does"),
    ("seconds_to_baseline_interval", "half width of its 95 % interval"),
    ("peak_memory", "peak memory in training, bytes above the imported libraries"),
    ("tokens", "training tokens"),
    ("seconds", "training seconds"),
    ("knockout", "bits per byte with the memory silenced"),
    ("knockout_interval", "half width of its 95 % interval"),
    ("knockout_difference", "bits per byte that silencing the memory costs, paired"),
    ("knockout_difference_interval", "half width of its 95 % interval"),
    ("skipped", "steps that were not finite and changed nothing, over all seeds"),
    ("diverged", "seeds given up after ten such steps in a row; they are in no other column"),
)
"""Columns of ``results.csv`` and what they hold."""


def to_csv(table: Sequence[Row]) -> str:
    """The table as CSV with :data:`COLUMNS`; an empty field is a value that does not exist."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([name for name, _ in COLUMNS])
    for row in table:
        flat: dict[str, object] = {}
        for name, value in vars(row).items():
            flat[name] = value.mean if isinstance(value, Estimate) else value
            flat[f"{name}_interval"] = value.half if isinstance(value, Estimate) else None
        writer.writerow(["" if flat.get(name) is None else flat[name] for name, _ in COLUMNS])
    return out.getvalue()


def row_from_dict(values: Mapping[str, Any]) -> Row:
    """A row as it stands in ``results.json``; what an earlier version did not write is derived, or is its default."""
    estimates = ("bits_per_byte", "difference", "speed_ratio", "seconds_to_baseline", "knockout", "knockout_difference")
    fields: dict[str, Any] = {k: estimate_from(v) if k in estimates and v is not None else v for k, v in values.items()}
    with_, without = fields["bits_per_byte"], fields["knockout"]
    if "knockout_difference" not in fields and without is not None and without.n == with_.n == len(with_.values):
        apart = [b - a for a, b in zip(with_.values, without.values, strict=True)]
        fields["knockout_difference"] = stats.estimate(apart)
    return Row(**fields)


def estimate_from(values: Mapping[str, Any] | float) -> Estimate:
    """An estimate as it stands in ``results.json``."""
    if isinstance(values, int | float):
        return Estimate(values, None, 1)
    return Estimate(values["mean"], values["half"], values["n"], tuple(values["values"]))


def write(folder: Path, results: Mapping[str, Any]) -> None:
    """Write ``results.json`` and ``results.csv`` into ``folder``; ``results["rows"]`` holds :class:`Row`."""
    table: list[Row] = list(results["rows"])
    plain = {**results, "rows": [asdict(row) for row in table]}
    files.write_file(folder / "results.json", json.dumps(plain, indent=1) + "\n")
    files.write_file(folder / "results.csv", to_csv(table))


def read(folder: Path) -> dict[str, Any]:
    """The content of ``results.json`` with its rows as :class:`Row`. A folder without one raises FileNotFoundError."""
    path = folder / "results.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no results.json in {folder}: give the output folder of a comparison, or run 'vademecum "
            "compare' first."
        )
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        results["rows"] = [row_from_dict(row) for row in results["rows"]]
    except (ValueError, KeyError, TypeError) as error:
        raise files.Damaged(
            f"{path} is not a results file of this version ({error}): run 'vademecum compare' again."
        ) from error
    return results
