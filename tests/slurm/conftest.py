"""A SLURM of the tests' own: one controller, two virtual nodes, a partition whose jobs push others aside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from everclip.runs.folder import RunFolder
from tests.conftest import SMALL

ROOT = Path(__file__).parents[2]
PATIENCE = float(os.environ.get("EVERCLIP_SLURM_PATIENCE", 300))  # seconds that anything may take


class Cluster:
    """Runs commands on the cluster."""

    def __init__(self, folder: Path, cache_dir: Path) -> None:
        self._env = os.environ | {"EVERCLIP_SLURM_DIR": str(folder), "SLURM_CONF": f"{folder}/slurm.conf"}
        # The template starts `everclip`, which lies beside the interpreter.
        self._env["MASTER_ADDR"] = "127.0.0.1"  # the virtual nodes have no names in the network
        self._env["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.words = [*SMALL, f"paths.cache={cache_dir}"]

    def switch(self, way: str) -> None:
        subprocess.run([ROOT / "scripts" / "dev" / "slurm_local.sh", way], env=self._env, check=True)

    def run(self, *command: str | Path, cwd: Path = ROOT) -> str:
        done = subprocess.run(command, env=self._env, capture_output=True, text=True, cwd=cwd)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def everclip(self, outputs: Path, *words: str) -> str:
        """Output of the command, run as a user of the login node would."""
        command = [sys.executable, "-m", "everclip.commands.run", *self.words, f"paths.outputs={outputs}"]
        return self.run(*command, *words)

    def submit(self, outputs: Path, *words: str) -> str:
        """Number of the job array."""
        found = re.search(
            r"submitted as job array (\d+);", self.everclip(outputs, "-m", "hydra/launcher=slurm", *words)
        )
        assert found is not None
        return found[1]

    def queue(self) -> dict[str, str]:
        """States in the queue by job."""
        return dict(line.split() for line in self.run("squeue", "-h", "-r", "-o", "%i %T").splitlines())


def wait_for(what: str, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.3)


def runs_below(outputs: Path) -> dict[tuple[str, str], RunFolder]:
    """Run folders by method and seed."""
    return {(p.parents[3].name, p.parent.name): RunFolder(p.parent) for p in outputs.rglob("run.json")}


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("slurm"), cache_dir)
    made.switch("up")
    yield made
    made.switch("down")
