from __future__ import annotations

import json
import logging
import os
import pickle
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from unittest.mock import patch

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_repository import CachingConfigRepository
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, open_dict

from everclip.backbones import open_clip, weights
from everclip.backbones.open_clip import OpenClip
from everclip.commands import execute
from everclip.config import build, schema
from everclip.config.catalogue import option_names
from everclip.data.sequences import shapes
from everclip.reporting.console import set_up_logging
from everclip.reporting.tables.definition import read_definition
from everclip.reporting.tables.table import Entry, make_entries
from everclip.runs.folder import RunFolder
from everclip.training.engine import Engine

if TYPE_CHECKING:
    from tests.trained import Trained

os.environ["WANDB_MODE"] = "disabled"
os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start; two of them run side by side

# Of each of the 20 classes that no embedded sequence trains on: with 10, they are most of what a small run looks at.
shapes.HELD_OUT_TEST = 2

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


@cache
def embedded(model: str) -> Any:
    """An embedded model as it comes from its file; nobody may change it."""
    with torch.random.fork_rng(devices=[]):
        return weights.create(model, "embedded")


def create(model: str, given: str) -> Any:
    """As `weights.create`; what takes longest of an embedded model are the random values that it begins with."""
    return deepcopy(embedded(model)) if given == "embedded" else weights.create(model, given)


open_clip.create = create


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests come first: a long one at the end keeps one process at work and the other waiting."""
    long = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -long[item.path])


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


@cache
def composed(*overrides: str) -> bytes:
    """What these words compose to; the same ones are composed many times."""
    build.register()
    with initialize_config_dir(str(schema.conf_dir()), version_base="1.3"):
        return pickle.dumps(hydra_compose("run", list(overrides), return_hydra_config=True))


def compose_in(place: Path, cache_dir: Path, *overrides: str) -> DictConfig:
    """The root configuration with Hydra's node, outputs and cache in temporary folders."""
    set_up_logging("info")
    own = [f"hydra.searchpath=[file://{OWN}]"] if OWN else []
    config: DictConfig = pickle.loads(composed(*own, *overrides))
    with open_dict(config.hydra):
        config.hydra.runtime.output_dir = str(place)
    for name, path in (("outputs", f"{place}/outputs"), ("cache", str(cache_dir))):
        if any(word.startswith(f"paths.{name}=") for word in overrides):
            continue
        config.paths[name] = path
        config.hydra.overrides.task.append(f"paths.{name}={path}")
    return config


def run_words(folder: Path, cache_dir: Path, *overrides: str, plots: bool = False) -> RunFolder:
    """Runs what overrides compose to into a folder.

    Without its figures, which take longer than all the rest; tests of the command draw them. And without waiting for
    the disk some fifty times: what is left of a run that is broken is for `tests/faults` to show.
    """
    config = compose_in(folder.parent, cache_dir, *overrides)
    hydra = config.hydra
    with open_dict(config):
        del config["hydra"]
    target = RunFolder(folder)
    figures = nullcontext() if plots else patch("everclip.reporting.results.write_plots", return_value=[])
    with patch("os.fsync"), figures:
        execute.run(config, hydra, target)
    return target


def run_in(folder: Path, cache_dir: Path, *overrides: str, plots: bool = False) -> RunFolder:
    """Runs the small embedded sequence with overrides into a folder."""
    return run_words(folder, cache_dir, *SMALL, *overrides, plots=plots)


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


class Remembering(CachingConfigRepository):
    """Hydra's memory of the files that it has read, for all that is composed instead of for one."""

    read: ClassVar[dict[str, bytes]] = {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path not in self.cache:
            if config_path not in self.read:
                self.read[config_path] = pickle.dumps(super().load_config(config_path))
            self.cache[config_path] = pickle.loads(self.read[config_path])
        return self.cache[config_path]


@pytest.fixture(scope="session")
def entries(cache_dir: Path) -> Callable[[str], list[Entry]]:
    """Gives the rows of a table of conf/table with what they compose to, made once for all tests that need them."""

    @cache
    def _entries(table: str) -> list[Entry]:
        cache = patch.dict(os.environ, EVERCLIP_CACHE=str(cache_dir))
        with cache, patch("hydra._internal.config_loader_impl.CachingConfigRepository", Remembering):
            return make_entries(read_definition(table), (), ())

    return _entries


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
