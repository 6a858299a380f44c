"""The curve between two sets of weights of a run: `python scripts/interpolate.py RUN_FOLDER --start zero_shot --end 8`.

WiSE-FT (arXiv 2109.01903) as a stage over stored checkpoints: for each alpha, the weights (1 - alpha) * start + alpha *
end are evaluated on the run's own sequence. Start may be the pre-trained backbone (`zero_shot`), a session's index, or
a checkpoint of any run. Prints a table; writes `interpolation_<start>_<end>` as JSON and figure into the run folder.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig
from torch import Tensor

from everclip import storage
from everclip.backbones.base import Backbone
from everclip.commands.load import checkpoint_of, load, load_checkpoint, read_config
from everclip.commands.run import show_error
from everclip.config.build import build
from everclip.errors import ConfigError
from everclip.methods.base import Method
from everclip.reporting.console import quieten_libraries
from everclip.reporting.figures import save_figure
from everclip.runs.folder import RunFolder
from everclip.training.engine import Engine
from everclip.training.evaluation import Judge

log = logging.getLogger("interpolate")


def state_of(method: Method) -> dict[str, Tensor]:
    """Every value that can be interpolated, copied."""
    return {name: value.clone() for name, value in method.state_dict().items() if value.is_floating_point()}


def starting_state(run: Path, start: str, config: DictConfig, device: str) -> dict[str, Tensor]:
    """Values at alpha 0, by name."""
    if start == "zero_shot":
        backbone: Backbone = build("backbone", config.backbone, load=True)
        return state_of(Method(backbone.to(device)))
    if start.lstrip("-").isdigit():
        return state_of(load(run, session=int(start), device=device).method)
    return state_of(load_checkpoint(Path(start), device=device).method)


def curve(run: Path, start: str, end: int, alphas: list[float], engine: Engine) -> list[dict[str, Any]]:
    """Accuracy in % per alpha: on everything evaluated after session `end`, per task, and on held-out classes.

    Raises:
        ConfigError: something besides the backbone differs in shape, so that no straight line leads from start to end.
    """
    config = read_config(checkpoint_of(run, end), sequence=True)
    model = load(run, session=end, device=str(engine.device))
    first, last = starting_state(run, start, config, str(engine.device)), state_of(model.method)
    if {name: value.shape for name, value in first.items()} != {name: value.shape for name, value in last.items()}:
        raise ConfigError(f"the weights of {start} and of session {end} of {run} are not of the same names and shapes")
    sequence = build("sequence", config.sequence)
    rows = []
    for alpha in alphas:
        mixed = {name: first[name] * (1 - alpha) + value * alpha for name, value in last.items()}
        model.method.load_state_dict(mixed, strict=False)
        result = Judge(engine, sequence).evaluate(model.method, int(model.facts["session"]))
        scores = [verdict.scores["accuracy"] for verdict in result.verdicts.values()]
        tasks = [score.value for score in scores]
        accuracy = sum(score.value * score.count for score in scores) / result.num_samples
        rows.append({"alpha": alpha, "accuracy": accuracy, "tasks": tasks, "zero_shot_accuracy": result.held_out})
    return rows


def plot(rows: list[dict[str, Any]], title: str) -> Figure:
    """Accuracies over alpha."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.grid()
    for key, label in (("accuracy", "all classes seen"), ("zero_shot_accuracy", "held-out classes")):
        if rows[0][key] is not None:
            axes.plot([row["alpha"] for row in rows], [row[key] for row in rows], "o-", label=label)
    axes.set(xlabel="alpha, share of the later weights", ylabel="accuracy (%)", title=title)
    axes.legend()
    return figure


def interpolate(options: argparse.Namespace) -> None:
    """Prints and writes the curve."""
    rows = curve(options.run, options.start, options.end, options.alphas, Engine(accelerator=options.accelerator))
    log.info("| alpha | accuracy | held-out |\n|-------|----------|----------|")
    for row in rows:
        held_out = "" if row["zero_shot_accuracy"] is None else f"{row['zero_shot_accuracy']:8.2f}"
        log.info("| %5.2f | %8.2f | %8s |", row["alpha"], row["accuracy"], held_out)
    target = RunFolder(options.run).path / f"interpolation_{Path(options.start).stem}_{options.end}.json"
    storage.write_json(target, {"start": options.start, "end": options.end, "curve": rows})
    title = f"from {Path(options.start).stem} to session {options.end}"
    for path in (target, *save_figure(plot(rows, title), target.with_suffix(""))):
        log.info("%s", path)


def main(words: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--start", default="zero_shot", help="zero_shot, index of a stored session, or a checkpoint")
    parser.add_argument("--end", type=int, default=-1, help="index of a stored session, negative ones from the last")
    parser.add_argument("--alphas", type=float, nargs="+", default=[step / 10 for step in range(11)])
    parser.add_argument("--accelerator", default="auto")
    options = parser.parse_args(words)
    logging.basicConfig(format="%(message)s")
    quieten_libraries()
    log.setLevel(logging.INFO)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        interpolate(options)
    except Exception as error:  # noqa: BLE001 (the one place where every error ends)
        sys.exit(show_error(error))


if __name__ == "__main__":
    main()
