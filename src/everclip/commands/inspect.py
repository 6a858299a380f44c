"""The command `everclip-inspect`: classes, confusions, calibration and features of a run, session by session."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from everclip.commands.arguments import Parser
from everclip.errors import ConfigError, EverclipError
from everclip.reporting.console import quieten_libraries, tell_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from everclip.commands.load import AdaptedModel
    from everclip.reporting.inspection import Looked
    from everclip.training.engine import Engine
    from everclip.types import Batch, TaskSequence


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `everclip-inspect`; returns the exit code."""
    parser = Parser(
        prog="everclip-inspect",
        description="Looks at what a run's model makes of each test sample, session by session: accuracy by class, "
        "classes taken for others, calibration, samples gained and lost, and a map of features; on the console, and as "
        "CSV files and figures below inspection/ in the run's folder, which its report shows. The data must be there; "
        "the run need not be finished.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("--sessions", type=int, nargs="+", metavar="K", help="default: all that are stored")
    parser.add_argument(
        "--features", choices=("pca", "tsne", "off"), default="pca", help="how the map is made; tsne: by scikit-learn"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: inspection/ in the run's folder")
    parser.add_argument("--accelerator", default="auto", metavar="NAME", help="auto, cpu or gpu")
    parser.add_argument("--trust", nargs="+", default=[], metavar="PACKAGE", help="with methods of your own to import")
    options = parser.parse_args(arguments)
    try:
        sys.stdout.write(inspect(options))
    except EverclipError as error:
        tell_error("everclip-inspect", error)
        return error.exit_code
    return 0


def inspect(options: argparse.Namespace) -> str:
    """Writes tables and figures; gives what to print.

    Raises:
        MissingError: no such run, session, data, or package for the map.
        ConfigError: a run without classes to tell apart, or other data than it was trained on.
    """
    from everclip.commands.load import checkpoint_of, load_checkpoint, read_sequence
    from everclip.reporting import inspection as report
    from everclip.runs.folder import RunFolder
    from everclip.training.engine import Engine

    quieten_libraries()
    if options.features == "tsne":
        report.require_tsne()
    sessions = options.sessions or list(RunFolder(options.run).checkpoints()) or [-1]
    paths = [checkpoint_of(options.run, session) for session in sessions]
    sequence = read_sequence(paths[-1], trust=options.trust)
    engine, looked = Engine(accelerator=options.accelerator), []
    for path in paths:
        model = load_checkpoint(path, trust=options.trust)
        if model.facts["sequence"] != sequence.fingerprint():
            raise ConfigError(
                f"{options.run} was trained on other data than those that are there now; put them back, or run it "
                "anew with restart=true"
            )
        engine.place(model.method)
        looked.append(look(model, sequence, engine, with_features=options.features != "off"))
    known = (*sequence.seen(len(sequence.sessions) - 1), *(task.classes for task in sequence.tasks))
    names = {class_id: name for own in known for class_id, name in zip(own.ids, own.names, strict=True)}
    target = options.output or options.run / "inspection"
    files = report.write(looked, names, target, options.features)
    return f"{report.told(looked, names)}\n" + "".join(f"{file.absolute()}\n" for file in files)


def look(model: AdaptedModel, sequence: TaskSequence, engine: Engine, *, with_features: bool) -> Looked:
    """What a stored session's model makes of the samples of all tasks with class labels that are due after it.

    Raises:
        ConfigError: there is no such task.
    """
    import numpy as np
    import torch

    from everclip.evaluation.classification import Classification, over_views
    from everclip.metrics.predictions import Predictions
    from everclip.reporting.inspection import Looked
    from everclip.training.evaluation import Evaluated, due_tasks

    method, session = model.method, int(model.facts["session"])
    seen, passes, evaluated = sequence.seen(session), engine.passes(method), Evaluated(method)
    parts: list[tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    with torch.no_grad(), engine.inference():
        for number in due_tasks(sequence, method, session):
            task = sequence.tasks[number]
            if not isinstance(task.evaluator, Classification):
                continue
            classes = task.evaluator.candidates(task, seen)
            best = _best(over_views(evaluated.classifier(classes)))
            confidence, columns = passes.samples(task.samples, best, by_features=True).cpu().unbind(dim=1)
            features = torch.empty(len(columns), 0)
            if with_features:
                features = passes.samples(task.samples, lambda b: evaluated.encode_image(b.images), by_features=True)
            ids = np.asarray(classes.ids)[columns.long().numpy()]
            parts.append((number, task.samples.labels, ids, confidence.numpy(), features.float().cpu().numpy()))
    if not parts:
        raise ConfigError(f"session {session} of {sequence.name} has no task with class labels to look at")
    numbers, labels, predicted, confidences, features = zip(*parts, strict=True)
    return Looked(
        session=session,
        found=Predictions(np.concatenate(labels), np.concatenate(predicted), np.concatenate(confidences)),
        tasks=np.repeat(numbers, [len(own) for own in labels]),
        samples=np.concatenate([np.arange(len(own)) for own in labels]),
        features=np.concatenate(features),
    )


def _best(classify: Callable[[Tensor], Tensor]) -> Callable[[Batch], Tensor]:
    """Gives (B, 2): the probability of the most probable class, and its column."""
    import torch

    def best(batch: Batch) -> Tensor:
        confidence, column = classify(batch.images).float().softmax(dim=-1).max(dim=-1)
        return torch.stack([confidence, column.float()], dim=1)

    return best


if __name__ == "__main__":
    sys.exit(main())
