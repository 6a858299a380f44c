"""The command `everclip-predict`: what a run's model sees in pictures or clips."""

from __future__ import annotations

import argparse
import csv
import io
import logging
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everclip.commands.arguments import Parser, whole_number
from everclip.errors import ConfigError, DataError, EverclipError, MissingError, NotFiniteError
from everclip.reporting.console import quieten_libraries, tell_error, tell_on_stderr
from everclip.reporting.formats import console
from everclip.reporting.grid import Cell, Column, Grid, Line
from everclip.reporting.plain import plain

if TYPE_CHECKING:
    from everclip.commands.load import AdaptedModel
    from everclip.data.images import Form

BATCH = 32
log = logging.getLogger("everclip")


@dataclass(frozen=True)
class Prediction:
    """What a file shows: the most probable classes first, each with its probability."""

    path: Path
    classes: tuple[tuple[str, float], ...]


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `everclip-predict`; returns the exit code."""
    parser = Parser(
        prog="everclip-predict",
        description="Says which of the classes that a run has seen are in pictures, or in clips where the run's "
        "sequence has clips. The run need not be finished.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="a picture or clip, or a folder of them")
    parser.add_argument("--session", type=int, default=-1, metavar="K", help="default: the last stored")
    parser.add_argument("--top", type=whole_number(1), default=3, metavar="N", help="classes per file; default: 3")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write there, a line per class, instead of printing")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, ...; default: a GPU where there is one")
    parser.add_argument("--trust", nargs="+", default=[], metavar="PACKAGE", help="with methods of your own to import")
    options = parser.parse_args(arguments)
    tell_on_stderr("everclip-predict")
    try:
        found = predict(options)
        if options.csv is not None:
            from everclip import storage

            storage.write_text(options.csv, as_csv(found))
    except EverclipError as error:
        tell_error("everclip-predict", error)
        return error.exit_code
    sys.stdout.write(f"{console(grid_of(found)) if options.csv is None else options.csv.absolute()}\n")
    return 0


def predict(options: argparse.Namespace) -> list[Prediction]:
    """What the run's model sees in each file, in order.

    Raises:
        ConfigError: the run has seen no classes.
        DataError: a file that is given by its name cannot be read, or no other can.
    """
    from everclip.commands.load import checkpoint_of, load_checkpoint, read_config

    quieten_libraries()
    path = checkpoint_of(options.run, options.session)
    form = form_of(read_config(path, sequence=True, trust=options.trust).sequence)
    files = [file for place in options.files for file in files_in(place, form)]
    model = load_checkpoint(path, device=device_of(options.device), trust=options.trust)
    if not model.classes.ids:
        raise ConfigError(
            f"{path} has seen texts but no classes, so there are none to choose from; in Python, "
            f"everclip.load({str(options.run)!r}).classify(pictures, names) chooses among names of yours"
        )
    found = list(predictions(model, files, form, options.top, given=options.files))
    if not found:
        raise DataError(f"none of the {form.title}s can be read")
    return found


def form_of(sequence: Any) -> Form:
    """What files are to a run: clips as its sequence reads them, or pictures.

    Nothing is kept on disk, wherever the run did so.
    """
    from omegaconf import OmegaConf

    from everclip.config.build import build
    from everclip.data.images import PICTURES

    def clips(settings: Any) -> dict[str, Any] | None:
        if not isinstance(settings, dict):
            return None
        own = settings.get("clips")
        return own if isinstance(own, dict) else next(filter(None, map(clips, settings.values())), None)

    found = clips(OmegaConf.to_container(sequence))
    if found is None:
        return PICTURES
    form: Form = build("clips", OmegaConf.create(found | {"cache": "off", "cache_dir": None}))
    return form


def files_in(place: Path, form: Form) -> list[Path]:
    """The file itself, or those of a folder in order; a folder of frames is a clip.

    Raises:
        MissingError: it is not there, or a folder without any.
    """
    if not place.is_dir():
        if not place.exists():
            raise MissingError(f"{place} is not there; give {form.title}s or folders of {form.title}s")
        return [place]
    found = sorted(entry for entry in place.iterdir() if form.accepts(entry))
    if not found and form.accepts(place):
        return [place]
    if not found:
        raise MissingError(f"{place} holds no {form.title}s ({', '.join(form.suffixes)}); folders in it are not opened")
    return found


def device_of(name: str | None) -> str:
    """The device of this name, or a GPU where there is one.

    Raises:
        ConfigError: it is not there.
    """
    import torch

    chosen = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:  # the latter: built without it
        raise ConfigError(f"--device {chosen}: {str(error).splitlines()[0]}") from error
    return chosen


def predictions(
    model: AdaptedModel, files: Sequence[Path], form: Form, top: int, given: Collection[Path] = ()
) -> Iterator[Prediction]:
    """The most probable of the classes seen, by file; those that cannot be read are left out with a warning.

    Raises:
        DataError: one of those that were `given` by their names cannot be read.
        NotFiniteError: the model gives no probabilities for a file.
    """
    import torch

    from everclip.evaluation.classification import over_views

    backbone = model.backbone
    with torch.no_grad():
        classify = over_views(model.method.classifier(model.classes))
        for start in range(0, len(files), BATCH):
            read, paths = list[torch.Tensor](), list[Path]()
            for path in files[start : start + BATCH]:
                try:
                    read.append(form.read(path, backbone.resize, None, 0))
                    paths.append(path)
                except DataError as error:
                    if path in given:
                        raise
                    log.warning("left out: %s", error)
            if not read:
                continue
            logits = classify(backbone.normalize(torch.stack(read).to(backbone.device))).float()
            best = logits.softmax(dim=-1).topk(min(top, len(model.classes)))
            for path, columns, values in zip(paths, best.indices.tolist(), best.values.tolist(), strict=True):
                if not all(value == value for value in values):  # NaN
                    raise NotFiniteError(f"{type(model.method).__name__} gives logits that are not finite for {path}")
                names = (model.classes.names[column] for column in columns)
                yield Prediction(path, tuple(zip(names, values, strict=True)))


def grid_of(found: Sequence[Prediction]) -> Grid:
    """One line per file."""
    count = len(found[0].classes)
    columns = [Column("file", numeric=False)]
    for rank in range(1, count + 1):
        columns += [Column("class" if rank == 1 else str(rank), numeric=False), Column("probability", digits=4)]
    lines = []
    for each in found:
        pairs = [Cell(value) for pair in each.classes for value in pair]
        lines.append(Line([Cell(str(each.path)), *pairs]))
    return Grid("", columns, lines)


def as_csv(found: Sequence[Prediction]) -> str:
    """One line per file and class."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["file", "rank", "class", "probability"])
    for each in found:
        for rank, (name, probability) in enumerate(each.classes, start=1):
            writer.writerow([plain(str(each.path)), rank, plain(name), repr(probability)])
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())
