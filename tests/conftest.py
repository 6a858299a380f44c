from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig, open_dict

from everclip.backbones.open_clip import OpenClip
from everclip.commands import execute
from everclip.config import build, schema
from everclip.config.catalogue import option_names
from everclip.reporting.console import set_up_logging
from everclip.reporting.tables.definition import read_definition
from everclip.reporting.tables.table import Entry, make_entries
from everclip.runs.folder import RunFolder
from everclip.training.engine import Engine

if TYPE_CHECKING:
    from tests.trained import Trained

os.environ["WANDB_MODE"] = "disabled"
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start; two of them run side by side

# More than one only to prove that recorded figures do not depend on it, see tests/test_golden.py.
THREADS = int(os.environ.get("EVERCLIP_TEST_THREADS", "1"))

# Few classes, few pictures: a run takes a second or two.
SMALL = (
    "sequence.num_classes=10",
    "sequence.base_classes=6",
    "sequence.way=2",
    "sequence.shots=3",
    "sequence.train_per_class=8",
    "sequence.test_per_class=5",
    "train.epochs=2",
    "train.base.epochs=2",
    "trainer=cpu",
    "logger=none",
)


# `make contract CONFIG_DIR=...`: the methods of a user's configuration files in place of everclip's own.
OWN = Path(os.environ["EVERCLIP_TEST_CONFIG_DIR"]) if "EVERCLIP_TEST_CONFIG_DIR" in os.environ else None
NAMES = sorted(path.stem for path in (OWN / "method").glob("*.yaml")) if OWN else option_names("method")
if not NAMES:
    raise pytest.UsageError(f"{OWN}/method holds no *.yaml; make contract CONFIG_DIR=my_conf")
# With `--dist loadgroup` all tests of a method run in one process and share its small run.
METHODS = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in NAMES]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--remake-golden", action="store_true", help="write tests/golden/<method>.json anew")


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _threads() -> None:
    torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def _messages() -> None:
    """Everclip's messages as a library gives them, whatever a run of an earlier test has set up."""
    log = logging.getLogger("everclip")
    log.handlers, log.propagate = [], True
    log.setLevel(logging.INFO)


def compose_in(place: Path, cache_dir: Path, *overrides: str) -> DictConfig:
    """The root configuration with Hydra's node, outputs and cache in temporary folders."""
    build.register()
    set_up_logging("info")
    places = [f"paths.outputs={place}/outputs", f"paths.cache={cache_dir}"]
    places += [f"hydra.searchpath=[file://{OWN}]"] if OWN else []
    with initialize_config_dir(str(schema.conf_dir()), version_base="1.3"):
        composed = hydra_compose("run", [*places, *overrides], return_hydra_config=True)
    with open_dict(composed.hydra):
        composed.hydra.runtime.output_dir = str(place)
    return composed


def run_in(folder: Path, cache_dir: Path, *overrides: str, plots: bool = False) -> RunFolder:
    """Runs the small embedded sequence with overrides into a folder.

    Without its figures, which take longer than all the rest; tests of the command draw them.
    """
    composed = compose_in(folder.parent, cache_dir, *SMALL, *overrides)
    hydra = composed.hydra
    with open_dict(composed):
        del composed["hydra"]
    target = RunFolder(folder)
    with nullcontext() if plots else patch("everclip.reporting.results.write_plots", return_value=[]):
        execute.run(composed, hydra, target)
    return target


@pytest.fixture
def compose(cache_dir: Path, tmp_path: Path) -> Callable[..., DictConfig]:
    """Composes the root configuration, see `compose_in`."""
    return lambda *overrides: compose_in(tmp_path, cache_dir, *overrides)


@pytest.fixture
def run(cache_dir: Path, tmp_path: Path) -> Callable[..., RunFolder]:
    """Runs the small embedded sequence into `tmp_path/<folder>`."""
    return lambda *overrides, folder="run", plots=False: run_in(tmp_path / folder, cache_dir, *overrides, plots=plots)


@pytest.fixture(scope="session")
def finished(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunFolder]:
    """Gives the small run with overrides, made once for all tests that read it; they must not change it."""

    @cache
    def _finished(*overrides: str) -> RunFolder:
        torch.set_num_threads(THREADS)
        return run_in(tmp_path_factory.mktemp("finished") / "run", cache_dir, *overrides)

    return _finished


@pytest.fixture(scope="session", params=METHODS)
def trained(request: pytest.FixtureRequest, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A method after its small run, made once for all tests that look at it; they must not change it."""
    from tests.trained import train

    torch.set_num_threads(THREADS)
    return train(request.param, tmp_path_factory.mktemp(request.param), cache_dir)


@pytest.fixture(scope="session")
def entries(cache_dir: Path) -> Iterator[Callable[[str], list[Entry]]]:
    """Gives the rows of a table of conf/table with what they compose to, made once for all tests that need them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("EVERCLIP_CACHE", str(cache_dir))
        yield cache(lambda table: make_entries(read_definition(table), (), ()))


@pytest.fixture(scope="session")
def tiny() -> Callable[[], OpenClip]:
    """Gives a fresh embedded backbone each time it is called."""
    return lambda: OpenClip(model="everclip-tiny", weights="embedded")


@pytest.fixture(scope="session")
def engine() -> Engine:
    return Engine(accelerator="cpu", eval_batch_size=16)


@pytest.fixture
def golden() -> Callable[[str], Any]:
    """Reads tests/golden/<name>.json."""
    return lambda name: json.loads((Path(__file__).parent / "golden" / f"{name}.json").read_text())
