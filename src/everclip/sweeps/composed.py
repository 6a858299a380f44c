"""What the jobs of a sweep were composed to when it began: files that are edited meanwhile change none of them.

Every job is a command of its own, which would read the configuration files again when its turn comes. Its launcher
names it the file of what the command meant, and it composes nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from everclip import storage
from everclip.errors import MissingError
from everclip.storage import YAML
from everclip.sweeps.sweep import Sweep

if TYPE_CHECKING:
    from omegaconf import DictConfig

VARIABLE = "EVERCLIP_COMPOSED"
DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def path_of(sweep: Sweep, index: int | str) -> Path:
    """Where the configuration of a job is kept."""
    return sweep.path.with_suffix("") / "jobs" / f"{index}.yaml"


def keep(sweep: Sweep, index: int, config: DictConfig) -> None:
    """Keeps the configuration of a job with its `hydra` node; what it takes from elsewhere is looked up by the job."""
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
    storage.write_text(path_of(sweep, index), yaml.dump(plain, Dumper=DUMPER, sort_keys=False, allow_unicode=True))
    sweep.kept.add(index)


def named(sweep: Sweep, index: int) -> dict[str, str]:
    """The environment by which a job finds its configuration; empty if none was kept by this process."""
    return {VARIABLE: str(path_of(sweep, index))} if index in sweep.kept else {}


def given() -> DictConfig | None:
    """The configuration that a launcher has named to this process, with its `hydra` node; None if there is none.

    Raises:
        MissingError: it is no longer there.
    """
    if VARIABLE not in os.environ:
        return None
    from hydra.conf import HydraConf
    from omegaconf import OmegaConf

    path = Path(os.environ[VARIABLE])
    try:
        plain = yaml.load(path.read_text(encoding="utf-8"), YAML)
    except (OSError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise MissingError(
            f"{path}: the settings of this job cannot be read ({reason}); start the sweep again"
        ) from error
    node = OmegaConf.structured(HydraConf)
    OmegaConf.set_struct(node, False)  # plugins have keys of their own
    config = OmegaConf.create(plain | {"hydra": OmegaConf.merge(node, plain["hydra"])})
    OmegaConf.set_struct(config, True)
    return config
