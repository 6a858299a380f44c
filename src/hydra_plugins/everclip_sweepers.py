"""What turns a command with `-m` into runs: all combinations, or a search that proposes them one batch after another.

Hydra imports all plugins at every start, hence the imports inside functions.
"""

from __future__ import annotations

import fnmatch
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

JUDGES = ("seed", "sequence", "max_sessions", "validation")


def option_names(loader: ConfigLoader, group: str, depth: int) -> list[str]:
    """Options of a group that lie `depth` folders below it, `folder/name`."""
    if depth == 0:
        return loader.get_group_options(group, ObjectType.CONFIG)
    folders = loader.get_group_options(group, ObjectType.GROUP)
    return [f"{folder}/{name}" for folder in folders for name in option_names(loader, f"{group}/{folder}", depth - 1)]


def expanded(word: str, override: Override, loader: ConfigLoader) -> str:
    """The override with the options a glob matches written out; Hydra's own looks into no folder.

    Raises:
        ConfigError: nothing matches.
    """
    from everclip.errors import ConfigError

    glob: Any = override.value()
    if not isinstance(glob, Glob):
        return word
    group = override.key_or_group
    names = dict.fromkeys(
        name
        for pattern in glob.include
        for name in option_names(loader, group, pattern.count("/"))
        if fnmatch.fnmatch(name, pattern) and not any(fnmatch.fnmatch(name, other) for other in glob.exclude)
    )
    if not names:
        folders = loader.get_group_options(group, ObjectType.GROUP)
        options = [*loader.get_group_options(group, ObjectType.CONFIG), *(f"{folder}/*" for folder in folders)]
        raise ConfigError(f"{word} matches nothing; {group} has: {', '.join(options) or 'no options'}")
    return f"{word.partition('=')[0]}={','.join(names)}"


class GridSweeper(BasicSweeper):
    """Hydra's own, whose globs also reach into the folders of a group."""

    def sweep(self, arguments: list[str]) -> Any:
        """Launches all combinations."""
        assert self.hydra_context is not None
        loader = self.hydra_context.config_loader
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(arguments)
        words = [expanded(word, override, loader) for word, override in zip(arguments, overrides, strict=True)]
        return super().sweep(words)


class OptunaSweeper(Sweeper):
    """Searches with Optuna for the settings with the best result on a validation split.

    Nothing is stored of the search but its runs: the same command proposes the same settings again, finds those that
    are finished, and goes on after them.

    Args:
        trials: settings to try.
        batch: how many are proposed at a time, without knowing each other's results.
        metric: of `summary.json`.
        direction: `maximize` or `minimize` it.
        seed: of the proposals.
        params: what to search, by setting, beside what the command says.
    """

    def __init__(
        self, trials: int, batch: int, metric: str, direction: str, seed: int, params: dict[str, str] | None
    ) -> None:
        self._trials, self._batch, self._metric, self._direction, self._seed = trials, batch, metric, direction, seed
        self._params = [f"{key}={value}" for key, value in (params or {}).items()]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._config, self._loader = config, hydra_context.config_loader
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Proposes, runs, and says what was found.

        Raises:
            ConfigError: nothing to search for, a judge that is none, or a launcher that does not wait for results.
            MissingError: Optuna is not installed.
        """
        from everclip.reporting.console import set_up_logging

        set_up_logging(self._config.log_level)
        fixed, space = self._space([*self._params, *arguments])
        study = self._study()
        for start in range(0, self._trials, self._batch):
            trials = [study.ask(space) for _ in range(min(self._batch, self._trials - start))]
            jobs = {trial.number: tuple(f"{key}={trial.params[key]}" for key in space) for trial in trials}
            once = list(dict.fromkeys(jobs.values()))
            self._launcher.launch([[*fixed, *words] for words in once], start)
            if self._config.check or self._config.plan:
                return
            if getattr(self._launcher, "stopped", False):
                break
            values = dict(zip(once, self._values(len(once)), strict=True))
            for trial in trials:
                value = values[jobs[trial.number]]
                study.tell(trial, value, None if value is not None else _failed())
        self._conclude(study, fixed)

    def _space(self, arguments: list[str]) -> tuple[list[str], dict[str, BaseDistribution]]:
        """What stays the same in all runs, and what is searched."""
        from everclip.errors import ConfigError

        if self._config.validation is None:
            raise ConfigError("a search without validation would select on the test set; set validation=0.2")
        if self._config.hydra.runtime.choices["hydra/launcher"] != "local":
            raise ConfigError("a search waits for results before it proposes more; use hydra/launcher=local")
        parser = OverridesParser.create(config_loader=self._loader)
        fixed, space = [f"validation={self._config.validation}"], {}
        for word, override in zip(arguments, parser.parse_overrides(arguments), strict=True):
            key = override.get_key_element()
            if not override.is_sweep_override():
                fixed += [] if key == "validation" else [word]
            elif key.lstrip("+").startswith(JUDGES):
                raise ConfigError(f"{word}: {key} changes what a run is judged by and is no hyperparameter")
            else:
                (override,) = parser.parse_overrides([expanded(word, override, self._loader)])
                space[key] = distribution(override)
        if not space:
            raise ConfigError("nothing to search for; e.g. optimizer.lr='tag(log,interval(1e-4,1e-1))'")
        return fixed, space

    def _study(self) -> optuna.Study:
        optuna = _optuna()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return optuna.create_study(direction=self._direction, sampler=optuna.samplers.TPESampler(seed=self._seed))

    def _values(self, count: int) -> list[float | None]:
        """The metric of each of the runs that were launched last, None of a run without a result.

        Raises:
            ConfigError: the summary has no such metric.
        """
        from everclip.errors import ConfigError
        from everclip.reporting.results import read_result
        from everclip.runs.folder import RunFolder
        from everclip.sweeps.launchers import OUTCOMES

        values: list[float | None] = []
        for outcome in OUTCOMES[-count:]:
            result = None if outcome.exit_code else read_result(RunFolder(outcome.folder))
            value = None if result is None else result.summary.get(self._metric)
            if result is not None and not isinstance(value, int | float):
                numbers = [name for name, entry in result.summary.items() if isinstance(entry, int | float)]
                raise ConfigError(f"hydra.sweeper.metric={self._metric}: must be one of {', '.join(numbers)}")
            values.append(value)
        return values

    def _conclude(self, study: optuna.Study, fixed: Sequence[str]) -> None:
        """Says what each trial gave, and the command that tests the best."""
        from everclip.sweeps.launchers import log

        finished = [trial for trial in study.get_trials() if trial.value is not None]
        for trial in finished:
            settings = " ".join(f"{key}={value}" for key, value in trial.params.items())
            log.info("%s %.2f  %s", self._metric, trial.value, settings)
        if finished:
            kept = (word for word in fixed[1:] if not word.startswith("hparams_search="))
            best = [*kept, *(f"{key}={value}" for key, value in study.best_params.items())]
            log.info(
                "best of %d on held-out training pictures; on the test set: everclip %s",
                len(finished),
                shlex.join(best),
            )


def distribution(override: Override) -> BaseDistribution:
    """What Optuna draws from for a sweep in Hydra's grammar: an interval, integers, or a list."""
    distributions = _optuna().distributions
    value: Any = override.value()
    if override.is_interval_sweep():
        return distributions.FloatDistribution(float(value.start), float(value.end), log="log" in value.tags)
    if override.is_range_sweep() and isinstance(value.range(), range):
        numbers = value.range()
        return distributions.IntDistribution(numbers[0], numbers[-1], step=numbers.step)
    return distributions.CategoricalDistribution(list(override.sweep_string_iterator()))


def _optuna() -> Any:
    from everclip.errors import MissingError

    try:
        import optuna
    except ImportError as error:
        raise MissingError("hparams_search=optuna needs Optuna: pip install 'everclip[optuna]'") from error
    return optuna


def _failed() -> Any:
    return _optuna().trial.TrialState.FAIL
