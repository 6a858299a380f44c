"""W&B online, against a server in miniature."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from everclip.errors import MissingError
from everclip.loggers.mirrors import Loggers
from everclip.loggers.wandb import WandbLogger, start_wandb
from everclip.loggers.wandb_table import store_table
from tests.wandb_server import WandbServer

ROOT = Path(__file__).parents[1]
RUN = "ab12-seed0"
DATA = {"sequence": "shapes of ä", "fingerprint": "f" * 64, "contents": None}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    import wandb

    wandb.teardown()  # before the environment is kept: it names the service that this ends
    server = WandbServer()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB__FILE_STREAM_TRANSMIT_INTERVAL", "0.2")  # seconds; 15 otherwise
    yield server
    wandb.teardown()
    server.close()


def open_logger(folder: Path, log_model: bool = False) -> Loggers:
    run = start_wandb(
        folder,
        run_id=RUN,
        name="ncm-shapes-seed0",
        group="shapes/ncm",
        tags=["ncm"],
        notes="",
        config={"optimizer": {"lr": 0.1}},
        project="everclip",
        entity=None,
        mode="auto",
    )
    return Loggers(None, [WandbLogger(run, log_model, DATA)])


def losses(loggers: Loggers, *steps: int) -> None:
    for step in steps:
        loggers.train({"train/loss": step / 10}, step)


def session(loggers: Loggers, index: int, step: int) -> None:
    loggers.session({"session/accuracy": 90.0 - index}, index, step)


CHILD = """
import os, signal
from pathlib import Path
from tests.test_wandb_online import losses, open_logger, session
loggers = open_logger(Path({folder!r}), log_model=True)
losses(loggers, 10, 20)
path = Path({folder!r}, "session_00.safetensors")
path.write_bytes(b"0")
loggers.checkpoint(path, 0)
session(loggers, 0, 20)
losses(loggers, 30)
while len(os.read(0, 1)):  # until the server has it
    pass
losses(loggers, 40)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_and_every_point_arrives_once(server: WandbServer, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(folder=str(tmp_path))], env=environment, stdin=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while RUN not in server.runs or server.runs[RUN].points("train/step") != [10, 20, 30]:
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.05)
    child.communicate()
    assert child.returncode == -9
    assert server.runs[RUN].exit_code is None

    loggers = open_logger(tmp_path)
    losses(loggers, 10, 20)
    session(loggers, 0, 20)
    losses(loggers, 30, 40, 50)
    session(loggers, 1, 50)
    loggers.final({"last_accuracy": 89.0}, [], {}, None)
    loggers.close()
    run = server.runs[RUN]
    assert run.points("train/step") == [10, 20, 30, 40, 50]
    assert run.points("train/loss") == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert run.points("session/index") == [0, 1]
    assert run.points("_step") == list(range(8))
    assert run.summary["final/last_accuracy"] == 89.0
    assert run.exit_code == 0
    data, model = (item for item in server.artifacts.values() if item["artifactTypeName"] in ("dataset", "model"))
    assert (data["artifactCollectionName"], data["used_by"]) == ("data-shapes_of__", [RUN])
    assert json.loads(data["metadata"]) == DATA
    assert (model["artifactCollectionName"], model["runName"]) == (f"checkpoint-{RUN}", RUN)


@pytest.mark.slow
def test_a_server_that_fails_costs_no_points_and_ends_no_run(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")
    loggers = open_logger(tmp_path)
    server.outage = 500
    losses(loggers, 10, 20)
    session(loggers, 0, 20)
    loggers.close()  # comes back although nothing was sent
    assert server.runs[RUN].points("train/step") == []

    server.outage = None
    (record,) = tmp_path.glob("wandb/run-*")
    (message,) = caplog.messages
    assert f"`wandb sync --include-online {record}` sends the rest" in message
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", str(record)]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    assert server.runs[RUN].points("train/step") == [10, 20]
    assert server.runs[RUN].points("session/index") == [0]


@pytest.mark.slow
def test_a_stored_table_is_made_of_the_checkpoints_of_its_runs(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    loggers = open_logger(tmp_path / "run", log_model=True)
    path = tmp_path / "session_00.safetensors"
    path.write_bytes(b"0")
    loggers.checkpoint(path, 0)
    loggers.close()
    store_table("us/everclip", "shapes of ä", {"table.md": "## Shapes"}, [RUN, "cd34-seed1"])
    _, model, table = server.artifacts.values()
    assert (table["artifactTypeName"], table["artifactCollectionName"]) == ("table", "table-shapes_of__")
    assert model["used_by"] == [table["runName"]] != [RUN]
    assert server.runs[table["runName"]].exit_code == 0
    assert caplog.messages == ["W&B has no checkpoints of cd34-seed1 (logger.wandb.log_model=true stores them)"]
    assert not (tmp_path / "wandb").exists()

    server.outage = 500
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    with pytest.raises(MissingError, match="--store: W&B takes no table"):
        store_table("us/everclip", "shapes", {"table.md": "## Shapes"}, [])
