"""The command `everclip`: compose, check, run; every error as one or two lines and an exit code."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import env_override, setup_globals
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from everclip.commands import program
from everclip.commands.arguments import Parser
from everclip.config import build, checks, schema
from everclip.config.compatibility import NEUTRAL
from everclip.errors import ConfigError, EverclipError, Preempted, behind, nearest
from everclip.loggers.wandb import trial_id
from everclip.reporting.console import as_mirrors, log_file, print_config, set_up_logging, tell_error, terminal
from everclip.reporting.results import CONSOLE_SESSIONS, Result, read_result, results_table, write_sweep
from everclip.runs.folder import RunFolder
from everclip.runs.inputs import changed
from everclip.sweeps import composed
from everclip.sweeps.launchers import OUTCOMES, Outcome
from everclip.training.interruption import StopRequest
from everclip.training.peers import end_with_first

log = logging.getLogger("everclip")
LAUNCHERS = "local, slurm or slurm_array"
STOP = StopRequest()


def job(config: DictConfig) -> None:
    """One run; a sweep starts this command anew for each of its runs."""
    hydra_node = cast(DictConfig, HydraConfig.get())
    folder = Path(hydra_node.runtime.output_dir)
    set_up_logging(config.log_level)
    exit_code = 0
    try:
        checks.check_values(config)
        if config.print_config:
            print_config(config)
        if hydra_node.mode == RunMode.MULTIRUN:
            launcher = hydra_node.runtime.choices["hydra/launcher"]
            raise ConfigError(f"hydra/launcher={launcher} would run several jobs in a process; use {LAUNCHERS}")
        if hydra_node.runtime.choices["hparams_search"] != "grid":
            raise ConfigError("hparams_search starts several runs; it needs -m")
        if config.check:
            from everclip.commands.check import check

            check(config, hydra_node)
        elif config.plan:
            from everclip.commands.plan import plan

            plan(config, hydra_node)
        elif config.eval is not None:
            from everclip.commands.evaluate import evaluate

            evaluate(config, hydra_node)
        else:
            _run_or_report(config, hydra_node, RunFolder(folder))
    except Exception as error:
        if behind(error, Preempted, KeyboardInterrupt):
            raise
        exit_code = show_error(error)  # the one place where every error ends
    finally:
        _remove_if_empty(folder, Path(config.paths.outputs))
    OUTCOMES.append(Outcome(folder, exit_code))


def _run_or_report(config: DictConfig, hydra_node: DictConfig, folder: RunFolder) -> None:
    # A sweep of W&B waits for the result of its trial, also where an earlier one of the same settings did the work.
    told = trial_id() in (None, folder.read_run().get("id"))
    result = read_result(folder) if told and not config.restart else None
    if result is None:
        from everclip.commands.execute import run

        run(config, hydra_node, folder, STOP)
        result = read_result(folder)
        with log_file(folder.path / "run.log"):
            _show(result)
        return
    recorded = result.run.get("inputs")
    if recorded is None or changed(recorded):
        from everclip.commands.origin import confirm

        confirm(config, folder)
    folder.describe(config.tags, config.notes)
    log.info("finished earlier; the stored result:")
    _show(result)


def _show(result: Result | None) -> None:
    """Prints the table and the place of a finished run; the other processes of a parallel run have nothing to show."""
    if result is not None:
        log.info("%s", results_table([result], CONSOLE_SESSIONS))
        log.info("%s", result.folder)
        if not log.isEnabledFor(logging.INFO):
            terminal.print(str(result.folder))


def _remove_if_empty(folder: Path, root: Path) -> None:
    """Removes a run folder in which nothing was written, with the empty folders above it up to the outputs."""
    with suppress(OSError):
        while folder != root.absolute():
            folder.rmdir()
            folder = folder.parent


def show_error(error: BaseException) -> int:
    """Prints an error for people and returns its exit code; `EVERCLIP_DEBUG=1` adds the traceback."""
    if os.environ.get("EVERCLIP_DEBUG") == "1":
        traceback.print_exception(error)
    known = behind(error, EverclipError)
    if known is not None:
        message, code = str(known), known.exit_code
    elif isinstance(error, MissingConfigException | HydraException | OmegaConfBaseException):
        message, code = _compose_message(error), 2
    elif isinstance(error, ValueError) and str(error).startswith("Config group override"):  # from Hydra's parser
        groups = ", ".join((*schema.GROUPS, "trainer", "logger", "debug"))
        message = f"a group takes the name of one of its options, which a number, null or nan is not: {groups}"
        message += "; debug=anomaly finds what is not finite" if "debug=nan" in sys.argv else ""
        code = 2
    elif isinstance(error, OSError) and error.filename is not None:  # Hydra makes the run folder itself
        message, code = f"{error.filename} cannot be used: {error.strerror}", 1
    else:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        message = f"{type(error).__name__}: {error} ({place}); EVERCLIP_DEBUG=1 shows more"
        code = 1
    tell_error("everclip", message)
    return code


def _compose_message(error: BaseException) -> str:
    """What went wrong while composing, with the nearest valid name, on one line."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, name = error.missing_cfg_file.rpartition("/")
        options = sorted(option.rpartition("/")[2] for option in error.options)
        return f"{group}={name} is unknown; there are: {', '.join(options)}{nearest(name, options)}"
    cause = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(cause, OmegaConfBaseException) and cause.parent_node is not None and cause.key is not None:
        node = cause.parent_node
        hidden = ("_target_", NEUTRAL, "hydra")
        names = [str(name) for name in node if name not in hidden] if OmegaConf.is_dict(node) else []
        key = cause.full_key or str(cause.key)
        if "not in" in str(cause):
            return f"{key} is unknown; there are: {', '.join(names)}{nearest(str(cause.key), names)}"
        if "is not a ListConfig" in str(cause):
            return f"{key} is a list, which is written {key}=[first,second]"
        return f"{key}: {str(cause).splitlines()[0]}"
    if removed := re.search(r"full_key: hydra\.runtime\.choices\.(\S+)", str(error)):
        return f"~{removed[1]} removes a group that every run needs; choose one of its options, {removed[1]}=..."
    if several := re.search(r"Ambiguous value for argument '([^=']+)=([^']*)'", str(error)):
        key, values = several.groups()
        return f"{key}={values}: several values are a sweep, which needs -m; a list is written {key}=[{values}]"
    if isinstance(error, MissingConfigException) and str(error).startswith("Cannot find primary config"):
        return "--config-name: there is one root configuration, run; leave it out, and choose with group=option"
    found = re.search(r"Could not override '([^']+)'\. No match in the defaults list", str(error))
    if found:
        groups = (*schema.GROUPS, *schema.INJECTED, "trainer", "logger", "hparams_search", "paths")
        return f"{found[1]} is no group; groups: {', '.join(groups)}{nearest(found[1], groups)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} is no override; write key=value, lists as key=[a,b], texts with signs in quotes"
    return " ".join(lines[:2])


def main() -> None:
    """Entry point of `everclip`."""
    if "--version" in sys.argv[1:]:  # Hydra's is its own
        Parser(prog="everclip").parse_args(["--version"])
    with as_mirrors(), STOP.insisting():
        _main()


def _main() -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of being printed
    # Threads that spin long while they wait make training on a shared CPU several times slower, threads that sleep at
    # once make it slower on a free one; must be set before torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # repeatable matrix products on a GPU
    # Hydra's parser takes flags before or after the overrides, not between them.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word[:1] == "~" or (word[:1] != "-" and "=" in word))
    sys.path.append(os.getcwd())  # where a user's own method may lie
    OUTCOMES.clear()
    build.register()
    STOP.install()
    end_with_first()
    try:
        if (config := composed.given()) is not None:
            _run_composed(config)
        else:
            program.start(job)
    except (Preempted, KeyboardInterrupt, Exception) as error:  # noqa: BLE001 (errors while composing)
        stop = behind(error, Preempted, KeyboardInterrupt)
        if stop is None:
            sys.exit(show_error(error))
        sys.stderr.write(f"everclip: stopped by {str(stop) or 'SIGINT'}; the same command goes on\n")
        sys.exit(Preempted.exit_code)
    # What lies in the folder of a run that was refused is not its result.
    ended_well = [RunFolder(outcome.folder) for outcome in OUTCOMES if outcome.exit_code == 0]
    results = [result for folder in ended_well if (result := read_result(folder))]
    if len(OUTCOMES) > 1 and results:
        outputs = results[0].folder.parents[4]
        terminal.print(write_sweep(results, outputs))
    sys.exit(max((outcome.exit_code for outcome in OUTCOMES), default=0))


def _run_composed(config: DictConfig) -> None:
    """What Hydra does once it has composed."""
    setup_globals()
    HydraConfig.instance().set_config(config)
    Path(config.hydra.run.dir).mkdir(parents=True, exist_ok=True)
    alone = config.copy()
    with open_dict(alone):
        del alone["hydra"]
    with env_override(config.hydra.job.env_set):
        job(alone)


if __name__ == "__main__":
    main()
