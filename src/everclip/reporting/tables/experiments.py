"""What a row of ours composes to today, and the runs that belong to it."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everclip.config.names import changes_results
from everclip.digest import json_sha256
from everclip.errors import MissingError
from everclip.reporting.origin import LATER, data_seed
from everclip.reporting.results import Result
from everclip.reporting.stored import FACTS, Odd, read_run, run_folders
from everclip.reporting.tables.composed import Composer

OUTPUTS = "outputs"


@dataclass(frozen=True)
class Experiment:
    """Overrides and what they compose to.

    Attributes:
        overrides: all but the seed.
        seeds: wanted.
        digest: of the settings, as in the run folder's path.
        names: chosen method, backbone and sequence.
        data: digest of the settings that decide the data.
        backbone: digest of the settings that decide the weights.
    """

    overrides: tuple[str, ...]
    seeds: tuple[int, ...]
    digest: str
    names: tuple[str, str, str]
    data: str
    backbone: str


def commands(experiments: Sequence[Experiment], seeds: Sequence[int], outputs: str) -> list[str]:
    """The command lines that make some seeds of experiments: one for all that differ in a single simple choice."""
    columns = list(zip(*(experiment.overrides for experiment in experiments), strict=False))
    differing = [index for index, column in enumerate(columns) if len(set(column)) > 1]
    same_length = len({len(experiment.overrides) for experiment in experiments}) == 1
    if len(experiments) > 1 and same_length and len(differing) == 1:
        keys, values = zip(*(word.split("=", 1) for word in columns[differing[0]]), strict=True)
        if len(set(keys)) == 1 and all(re.fullmatch(r"[\w./-]+", value) for value in values):
            overrides = list(experiments[0].overrides)
            overrides[differing[0]] = f"{keys[0]}={','.join(values)}"
            return [_command(["-m", *overrides], seeds, outputs)]
    sweep = ["-m"] if len(seeds) > 1 else []
    return [_command([*sweep, *experiment.overrides], seeds, outputs) for experiment in experiments]


def _command(words: Sequence[str], seeds: Sequence[int], outputs: str) -> str:
    place = [] if outputs == OUTPUTS else [f"paths.outputs={outputs}"]
    return shlex.join(["everclip", *words, f"seed={','.join(map(str, seeds))}", *place])


def make_experiment(overrides: Sequence[str], seeds: Sequence[int], composer: Composer) -> Experiment:
    """What overrides stand for today."""
    facts = composer.facts(overrides)
    method, backbone, sequence = facts["names"]
    return Experiment(
        overrides=tuple(overrides),
        seeds=tuple(seeds),
        digest=facts["digest"],
        names=(method, backbone, sequence),
        data=facts["data"],
        backbone=facts["backbone"],
    )


@dataclass
class Runs:
    """Runs found in folders: finished ones, folders that are not finished, and folders that cannot be read."""

    finished: list[Result] = field(default_factory=list)
    unfinished: list[dict[str, Any]] = field(default_factory=list)
    damaged: list[tuple[Path, str]] = field(default_factory=list)

    def read(self, path: Path) -> None:
        """Adds one run folder."""
        run = read_run(path, sessions=False)
        if isinstance(run, Odd):
            self.damaged.append((path, run.reason))
        elif not run.known:
            lacking = ", ".join(fact for fact in FACTS if fact not in run.facts)
            self.damaged.append((path, f"run.json lacks {lacking}"))
        elif run.finished:
            self.finished.append(run.result)
        else:
            self.unfinished.append(run.facts)


def scan(roots: Iterable[str]) -> Runs:
    """Reads every run folder below some folders.

    Raises:
        MissingError: a folder is not there.
    """
    runs = Runs()
    for root in roots:
        if not Path(root).is_dir():
            raise MissingError(f"--runs {root}: there is no such folder")
        for path in run_folders(Path(root)):
            runs.read(path)
    return runs


@dataclass
class Sorted:
    """The runs that belong to a table, by digest and seed, and those left out with the reason."""

    used: dict[str, dict[int, Result]]
    stale: list[tuple[Result, str]] = field(default_factory=list)


def sort_runs(results: Sequence[Result], experiments: Sequence[Experiment]) -> Sorted:
    """Assigns runs to experiments by digest, and keeps only what was made of the same data, weights and code.

    Data must be the same over all experiments with equal data settings, for each seed where they follow it, weights
    over those with equal backbone settings, code, libraries and precision over the seeds of an experiment. Where runs
    differ, the more frequent value stays, of equally frequent ones that of the newest run.
    """
    by_digest = {experiment.digest: experiment for experiment in experiments}
    wanted = {(experiment.digest, seed) for experiment in experiments for seed in experiment.seeds}
    found, sorted_runs = [], Sorted({digest: {} for digest in by_digest})
    for result in results:
        key = result.run["digest"]
        if (key, result.run["seed"]) in wanted:
            found.append((by_digest[key], result))
        elif key not in by_digest:
            sorted_runs.stale += [(result, reason) for reason in _why_not(result, experiments)]
    for name, group, fact in CHECKS:
        found = _agreeing(found, group, fact, name, sorted_runs.stale)
    for experiment, result in sorted(found, key=lambda pair: _start(pair[1])):
        of_seed = sorted_runs.used[experiment.digest]
        if result.run["seed"] in of_seed:
            sorted_runs.stale.append((of_seed[result.run["seed"]], f"made again in {result.folder}"))
        of_seed[result.run["seed"]] = result
    return sorted_runs


Grouping = Callable[[Experiment, Result], str]
CHECKS: tuple[tuple[str, Grouping, Callable[[dict[str, Any]], Any]], ...] = (
    ("data fingerprint", lambda e, result: e.data + data_seed(result.folder), lambda run: run.get("fingerprint")),
    ("contents", lambda e, result: e.data + data_seed(result.folder), lambda run: run.get("contents")),
    ("texts", lambda e, _: e.digest, lambda run: run.get("given")),
    ("weights", lambda e, _: e.backbone, lambda run: (run.get("weights") or {}).get("sha256")),
    ("commit", lambda e, _: e.digest, lambda run: run.get("commit")),
    ("versions", lambda e, _: e.digest, lambda run: run.get("versions")),
    ("precision", lambda e, _: e.digest, lambda run: run.get("precision")),
)


def _agreeing(
    found: list[tuple[Experiment, Result]],
    group: Grouping,
    fact: Callable[[dict[str, Any]], Any],
    name: str,
    stale: list[tuple[Result, str]],
) -> list[tuple[Experiment, Result]]:
    """The runs whose fact is that of most runs of their group; the others go to `stale`."""
    kept = []
    keys = [group(*pair) for pair in found]
    for key in dict.fromkeys(keys):
        members = [pair for pair, own in zip(found, keys, strict=True) if own == key]
        newest_first = sorted((result for _, result in members), key=_start, reverse=True)
        if name in LATER:
            kept += [pair for pair in members if fact(pair[1].run) is None]
            members = [pair for pair in members if fact(pair[1].run) is not None]
            newest_first = [result for result in newest_first if fact(result.run) is not None]
            if not members:
                continue
        winner = Counter(json_sha256(fact(result.run)) for result in newest_first).most_common(1)[0][0]
        (value, *_) = [fact(result.run) for result in newest_first if json_sha256(fact(result.run)) == winner]
        for experiment, result in members:
            own = fact(result.run)
            if own == value:
                kept.append((experiment, result))
            else:
                stale.append((result, f"{name} {_differing(own, value)}; the others have {_differing(value, own)}"))
    return kept


def _differing(own: Any, other: Any) -> str:
    """A fact in short; of a mapping only what differs."""
    if isinstance(own, dict) and isinstance(other, dict):
        return ", ".join(f"{key} {own.get(key)}" for key in sorted(own | other) if own.get(key) != other.get(key))
    return str(own)[:12] + str(own)[40:] if isinstance(own, str) else str(own)  # a hash in short, `+changes` kept


def _start(result: Result) -> str:
    """When the run was last worked on, as text that sorts; empty where it does not say."""
    attempts = result.run.get("attempts") or [{}]
    return str(attempts[-1].get("start", ""))


def _why_not(result: Result, experiments: Sequence[Experiment]) -> Iterator[str]:
    """Why a run of an experiment's method, backbone and sequence is not of that experiment; nothing for other runs."""
    names = tuple(result.run[group] for group in ("method", "backbone", "sequence"))
    for experiment in experiments:
        if experiment.names == names:
            extra = sorted({word for word in result.run["overrides"] if _counts(word)} - set(experiment.overrides))
            if extra:
                yield f"other settings: {' '.join(extra)}"
            else:
                yield f"digest {result.run['digest']}, but the definition composes to {experiment.digest} today"
            return


def _counts(override: str) -> bool:
    """Whether an override can change a result, and is not a choice that the names show."""
    key = override.lstrip("+~").partition("=")[0]
    return key == "debug" or (changes_results(override) and key not in ("method", "backbone", "sequence"))
