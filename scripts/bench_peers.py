"""Our methods and other people's code on the same work, side by side: `python scripts/bench_peers.py --peer pilot=DIR`.

    --peer pilot=DIR    LAMDA-CL/LAMDA-PILOT @ 5240714: L2P, CODA-Prompt, SimpleCIL (timm 0.6.13; C3Box: newer)
    --peer c3box=DIR    LAMDA-CL/C3Box @ 1378ab2: SimpleCIL, zero-shot evaluation
    --peer mammoth=DIR  aimagelab/mammoth @ e75a491 (needs kornia): ER around open_clip's model
    --peer coop=DIR     KaiyangZhou/CoOp @ ff61507
    --peer tip=DIR      gaopengcuhk/Tip-Adapter @ d0e2d6f
    --peer zscl=DIR     Thunderbeee/ZSCL @ b96e714

Towers are ViT-B/16 with random weights, pictures are noise in PNG files of the towers' size, read by both sides without
loader processes. In turn, each side takes a step of its own training loop, or does a whole run (three sessions of five
classes, or one of all): building the model, training, evaluation, what it writes. Times are medians, by the clock and
on processors, which other load disturbs less; ratios are theirs / ours, medians over turns. Memory is the peak above
what was held before. Every case has a process of its own. Where a case says "pictures", ours has `data.features=off`:
the towers see a picture whenever it comes, as on the other side.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial, partialmethod
from pathlib import Path
from typing import Any
from unittest.mock import patch

import open_clip
from bench_methods import begun
from hydra import compose, initialize_config_dir
from peers import NAMES, PEERS, TEXTS, WAY, Work
from side_by_side import Action, Following, Stepped, Times, in_turns, peak_memory
from torch import Tensor, nn
from torch.utils.data import DataLoader

from everclip.commands.parts import engine_settings, make_parts, make_training
from everclip.commands.run import main as everclip
from everclip.config import build, schema
from everclip.reporting.console import quieten_libraries
from everclip.training.engine import Engine

log = logging.getLogger("bench_peers")


def words(work: Work, method: str, base: int, *overrides: str) -> list[str]:
    """The command line of a run of ours."""
    model = work.root / "model.json"
    config = open_clip.get_model_config("ViT-B-16")
    assert config is not None
    config["vision_cfg"]["image_size"] = work.side
    model.write_text(json.dumps(config))
    return [
        f"method={method}", "backbone=file", f"backbone.model={model}", "backbone.weights=random", "sequence=folder",
        f"sequence.root={work.root}", f"sequence.base_classes={base}", f"sequence.way={WAY}", "logger=none",
        f"train.batch_size={work.batch}", f"data.eval_batch_size={work.batch}", "train.augment=none", "trainer=cpu",
        f"paths.cache={work.root / 'cache'}", "log_level=error", *overrides,
    ]  # fmt: skip


def our_steps(method: str, *overrides: str) -> Callable[[Work], Action]:
    """Steps in the second session."""

    def steps(work: Work) -> Action:
        build.register()
        quieten_libraries()
        with initialize_config_dir(str(schema.conf_dir()), version_base="1.3"):
            config = compose("run", words(work, method, WAY, "train.epochs=100000", *overrides))
        sequence, _, trained = make_parts(config, load=True)
        engine, training = Engine(**engine_settings(config)), make_training(config)
        engine.place(trained)
        session, phases = begun(trained, sequence, training, engine.extractor(trained))
        last = len(phases) - 1
        return Stepped(lambda pause: engine.fit(trained, session, phases[last], last, training, Following(pause)))

    return steps


def our_run(method: str, *overrides: str, base: int = WAY) -> Callable[[Work], Action]:
    """A whole run, as the command does it."""

    def run(work: Work) -> None:
        with tempfile.TemporaryDirectory() as outputs:
            command = words(work, method, base, f"paths.outputs={outputs}", "train.epochs=1", *overrides)
            with patch.object(sys, "argv", ["everclip", *command]):
                try:
                    everclip()
                except SystemExit as end:
                    if end.code:
                        raise RuntimeError(f"{method} ended with {end.code}") from end

    return lambda work: partial(run, work)


HEAD = ("method.head=linear", "train.gradient_clip=null")
L2P = ("method.pool=10", "method.length=5", "method.top_k=5", "method.key_weight=0.1", *HEAD)
REFERENCE = (f"reference.num_classes={TEXTS}", "reference.per_class=1", "method.average_every=100")
FLOWERS = "sequence.templates=['a photo of a {}, a type of flower.']"
OFF = "data.features=off"
# Ours, several for a case of theirs where features may stand for pictures.
OURS: dict[str, dict[str, Callable[[Work], Action]]] = {
    "L2P, step": {"": our_steps("l2p", *L2P)},
    "CODA-Prompt, step": {"": our_steps("coda_prompt", *HEAD)},
    "ER, step": {"": our_steps("er")},
    "CoOp, step": {"": our_steps("coop"), ", pictures": our_steps("coop", OFF)},
    "Tip-Adapter-F, step": {"": our_steps("tip_adapter_f"), ", pictures": our_steps("tip_adapter_f", OFF)},
    "ZSCL, step": {"": our_steps("zscl", *REFERENCE)},
    "L2P, run": {"": our_run("l2p", *L2P)},
    "CODA-Prompt, run": {"": our_run("coda_prompt", *HEAD, "train.epochs=2")},
    "SimpleCIL, run": {"": our_run("ncm")},
    "zero-shot, run": {"": our_run("zero_shot", FLOWERS), ", pictures": our_run("zero_shot", FLOWERS, OFF)},
    "Tip-Adapter, run": {"": our_run("tip_adapter", "train.augment=half_crop_flip", base=len(NAMES))},
}


def itself(moved: Any) -> Any:
    """What takes the place of moving to a GPU."""
    return moved


def alone(loader: Any, begin: Callable[..., None], *parts: Any, **options: Any) -> None:
    """Begins a loader without processes, however many are asked for."""
    begin(loader, *parts, **(options | {"num_workers": 0}))


def measure(peer: str, what: str, checkout: str, options: argparse.Namespace) -> list[str]:
    """Rows of the table for a case."""
    with tempfile.TemporaryDirectory() as root, Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        work = Work(Path(root, "pictures"), options.side, options.batch)
        work.draw(options.pictures)
        Path(root, "utils").symlink_to(Path(checkout, "utils"))  # some read files
        os.chdir(root)  # and write others
        sys.path.insert(0, checkout)
        with (
            patch.multiple(Tensor, cuda=itself, half=Tensor.float),
            patch.multiple(nn.Module, cuda=itself),
            patch.object(DataLoader, "__init__", partialmethod(alone, DataLoader.__init__)),
        ):
            actions = {name: make(work) for name, make in OURS[what].items()}
            actions["theirs"] = PEERS[peer][what](work, checkout)
            os.chdir(root)  # Mammoth goes elsewhere
            for action in actions.values() if what.endswith("step") else ():
                action()
            memory = {name: peak_memory(action) for name, action in actions.items()}
            times = in_turns(actions, options.repeats)
    return [
        row(f"{peer}: {what}{name}", times[name], times["theirs"], memory[name], memory["theirs"])
        for name in OURS[what]
    ]


def row(title: str, ours: Times, theirs: Times, our_memory: float, their_memory: float) -> str:
    """A line of the table."""
    cells = [title]
    for mine, other in zip(
        zip(*ours, strict=True), zip(*theirs, strict=True), strict=True
    ):  # by the clock, on processors
        ratio = statistics.median(slow / fast for fast, slow in zip(mine, other, strict=True))
        cells += [f"{statistics.median(mine):.3f}", f"{statistics.median(other):.3f}", f"{ratio:.2f}"]
    cells += [
        f"{our_memory:.0f}",
        f"{their_memory:.0f}",
        f"{their_memory / our_memory if our_memory else math.inf:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", metavar="NAME=DIR", default=[], help="those not named are left out")
    parser.add_argument("--only", metavar="WORD", default="", help="cases with this word: step, run, L2P, ...")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--pictures", type=int, default=16, help="of a class, for training and for testing")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    log.setLevel(logging.INFO)
    if options.case:
        peer, what, checkout = options.case
        log.info("\n".join(measure(peer, what, checkout, options)))
        return
    columns = ("case", "s", "theirs", "ratio", "CPU s", "theirs", "ratio", "MB", "theirs", "ratio")
    log.info("| %s |\n|%s", " | ".join(columns), "---|" * len(columns))
    settings = os.environ | {"OMP_NUM_THREADS": str(options.threads), "TQDM_DISABLE": "1"}
    for peer, place in (peer.split("=", 1) for peer in options.peer):
        for what in (case for case in PEERS[peer] if options.only in case):
            case = [peer, what, str(Path(place).resolve())]
            subprocess.run([sys.executable, *sys.argv, "--case", *case], env=settings, check=False)


if __name__ == "__main__":
    main()
