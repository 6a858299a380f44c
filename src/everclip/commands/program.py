"""The command line as Hydra reads it, with less of it done twice: a run is composed once, the help copies no store."""

from __future__ import annotations

import sys
from typing import cast

import hydra
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import run_job
from hydra.types import HydraContext, RunMode, TaskFunction

from everclip.config.reading import Reading
from everclip.config.schema import conf_dir


def start(job: TaskFunction) -> None:
    """Does what the command line says, as `hydra.main` would; whatever is neither one run nor help is left to that."""
    flags = [word for word in sys.argv[1:] if word[:1] == "-"]
    if flags in (["--help"], ["-h"]):
        _help()
    elif flags or not _run(job):
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="run")(job)()


def _help() -> None:
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        program = cast(Hydra, GlobalHydra.instance().hydra)
        Reading().serve(program.config_loader)
        parser = get_args_parser()
        program.app_help("run", parser, parser.parse_args())


def _run(job: TaskFunction) -> bool:
    """Whether the command line means one run, which is over then."""
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        program = cast(Hydra, GlobalHydra.instance().hydra)
        config = program.compose_config("run", sys.argv[1:], RunMode.RUN, with_log_configuration=True)
        if config.hydra.mode == RunMode.MULTIRUN or config.hydra.callbacks:
            return False
        config.hydra.mode = RunMode.RUN
        context = HydraContext(program.config_loader, Callbacks())
        _ = run_job(job, config, "hydra.run.dir", None, context).return_value  # raises what the job raised
    return True
