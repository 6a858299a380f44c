"""The command `everclip-data`: what data sets are there, get them, check them."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
    track,
)

from everclip.commands.arguments import Parser
from everclip.data.datasets.spec import DataSpec, Download, keys, present, spec
from everclip.data.downloads import extract, fetch, is_archive
from everclip.errors import ConfigError, EverclipError, nearest
from everclip.reporting.console import tell_error, terminal


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `everclip-data`; exit code 2 where something is missing or wrong."""
    options = _parse(arguments)
    logging.getLogger("everclip").addHandler(logging.NullHandler())  # `verify` itself says what readers warn of
    try:
        if options.command == "verify" and options.name not in (*keys(), "all") and Path(options.name).exists():
            complete = [verify_own(Path(options.name), options)]
        else:
            chosen = [spec(key) for key in _chosen(options.name)]
            if options.command == "status":
                _say(f"{'data set':<14} {'state':<12} {'size':>8}  {'to get it':<24} folder (--root or EVERCLIP_DATA)")
            complete = [COMMANDS[options.command](known, options) for known in chosen]
    except EverclipError as error:
        _fail(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted; the same command goes on where it stopped")
        sys.exit(130)
    sys.exit(0 if all(complete) else 2)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="everclip-data", description="Published data sets: what is there, get, check.")
    commands = parser.add_subparsers(dest="command", required=True)
    root = Path(os.environ.get("EVERCLIP_DATA", "data"))
    what = dict.fromkeys(COMMANDS, "a data set, or all")
    what["verify"] += "; or a list of your own image-text pairs, or a folder with one"
    for name, text in (
        ("status", "where each belongs, whether it is there, how to get it"),
        ("prepare", "download and extract, or say what to do by hand"),
        ("verify", "compare pictures per split and class, and checksums, with the published ones"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("name", nargs="?" if name == "status" else None, default="all", help=what[name])
        command.add_argument("--root", type=Path, default=root, help=f"where data sets lie (EVERCLIP_DATA; now {root})")
        if name != "status":
            command.add_argument("--split", help="only this split, for example coop or mtil")
    commands.choices["verify"].add_argument(
        "--deep", action="store_true", help="open every picture, not only those that seem cut off"
    )
    return parser.parse_args(arguments)


def _chosen(name: str) -> list[str]:
    if name == "all":
        return keys()
    if name not in keys():
        raise ConfigError(f"{name} is no data set; there are: {', '.join(keys())}{nearest(name, keys())}")
    return [name]


def _splits(known: DataSpec, options: argparse.Namespace) -> list[str]:
    if options.split is None or (options.split not in known.splits and options.name == "all"):
        return list(known.splits)
    if options.split not in known.splits:
        raise ConfigError(f"{known.key} has no split {options.split}; it has: {', '.join(known.splits)}")
    return [options.split]


def _missing(known: DataSpec, root: Path, splits: Iterable[str]) -> list[Path]:
    paths = [path for split in splits for path in known.expected(root, split) if not present(path)]
    return list(dict.fromkeys(paths))


def status(known: DataSpec, options: argparse.Namespace) -> bool:
    """Prints one line about a data set, or everything where it alone is asked for."""
    there = [split for split in known.splits if not _missing(known, options.root, [split])]
    state = "there" if len(there) == len(known.splits) else f"there: {', '.join(there)}" if there else "missing"
    by_hand = known.steps or any(split.steps for split in known.splits.values())
    how = "by hand" if not known.downloads else "download, lists by hand" if by_hand else "download"
    _say(f"{known.key:<14} {state:<12} {known.size:>8}  {how:<24} {known.folder(options.root)}")
    if options.name != "all":
        _say(f"{known.title}; {known.homepage}; licence: {known.licence}")
        for name, split in known.splits.items():
            classes = [f"{split.classes} classes"] if split.classes else []
            counts = [f"{count:,} {part}" for part, count in split.counts.items()]
            captions = [f"{split.captions[part]:,} {part} captions" for part in split.captions]
            _say(f"  split {name}: " + ", ".join([*classes, *counts, *captions] or ["as its list says"]))
        for path in dict.fromkeys(p for split in known.splits for p in known.expected(options.root, split)):
            _say(f"  {'there  ' if present(path) else 'missing'} {path}")
        _say_steps(known, options.root, known.splits)
    return True


def prepare(known: DataSpec, options: argparse.Namespace) -> bool:
    """Downloads what can be, says what is left to do; returns whether everything is there."""
    root, splits = options.root, _splits(known, options)
    try:
        if _missing(known, root, splits):
            _download(known, root, splits)
    except EverclipError as error:
        if options.name != "all":
            raise
        _fail(error)
    if missing := _missing(known, root, splits):
        _say(f"{known.key}: {missing[0]} is missing" + (f", and {len(missing) - 1} more" if missing[1:] else ""))
        _say_steps(known, root, splits)
        return False
    _say(f"{known.key}: there, in {known.folder(root)}; everclip-data verify {known.key} checks it")
    return True


def _say_steps(known: DataSpec, root: Path, splits: Iterable[str]) -> None:
    """What a person must do for what is missing."""
    steps = {}
    files = [known.folder(root) / need for need in known.needs] or _missing(known, root, splits)
    if known.steps and not all(map(present, files)):
        steps[known.steps.strip()] = root
    for split in splits:
        if known.splits[split].steps and _missing(known, root, [split]):
            steps[known.splits[split].steps] = known.folder(root)
    for step, place in steps.items():
        _say(f"  by hand, into {place}:\n    " + step.replace("\n", "\n    "))


def _download(known: DataSpec, root: Path, splits: Iterable[str]) -> None:
    files = {name for split in splits for name in known.splits[split].files}
    of_others = {name for split in known.splits.values() for name in split.files} - files
    absent = [download for download in known.downloads if not present(known.folder(root) / download.gives)]
    wanted = [download for download in absent if download.gives not in of_others]
    if wanted:
        _say(f"{known.key}: {known.size} from {known.homepage} (licence: {known.licence})")
    for download in wanted:
        name = download.url.rpartition("/")[2]
        folder = root / download.into
        target = root / ".downloads" / name if is_archive(name) else folder / name
        _fetch(download, target)
        if not is_archive(name):
            continue
        _say(f"{known.key}: extracting {name} into {folder}")
        extract(target, folder)
        for inner in download.inner:
            extract(folder / inner, folder)
            (folder / inner).unlink()
        target.unlink()


def _fetch(download: Download, target: Path) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=terminal, disable=not terminal.is_terminal) as bar:
        task = bar.add_task(target.name, total=None)
        fetch(
            download.url,
            target,
            download.md5,
            lambda done, total: bar.update(task, completed=done, total=total or None),
        )


def verify(known: DataSpec, options: argparse.Namespace) -> bool:
    """Compares what is there with what was published; returns whether it agrees."""
    splits = [name for name in _splits(known, options) if not _missing(known, options.root, [name])]
    if not splits:
        if options.name != "all":
            known.require(options.root, _splits(known, options)[0])
        _say(f"{known.key}: not there")
        return True
    from everclip.data.verification import compare  # loads torch, which status and prepare do without

    found = compare(known, options.root, splits, _watch, options.deep)
    for text in found.problems:
        _say(f"{known.key}: {text}")
    for text in found.notes:
        _say(f"{known.key}: note: {text}")
    if not found.problems:
        where = f"(split{'s' * (len(splits) > 1)} {', '.join(splits)})"
        unsure = "" if known.identified else "; no checksums of its pictures are published"
        _say(f"{known.key}: as published {where}{unsure}")
    return not found.problems


def verify_own(place: Path, options: argparse.Namespace) -> bool:
    """Looks over one's own list of pairs, or folder with one; returns whether nothing is wrong with it."""
    from everclip.data.verification import compare_own  # loads torch, which status and prepare do without

    found = compare_own(place, _watch, options.deep)
    for text in found.problems:
        _say(text)
    for text in found.notes:
        _say(f"note: {text}")
    _say(f"{place}: {len(found.problems) or 'nothing'} wrong")
    return not found.problems


def _watch(batches: range) -> Iterable[int]:
    return track(batches, "looking at pictures", console=terminal, transient=True, disable=not terminal.is_terminal)


COMMANDS = {"status": status, "prepare": prepare, "verify": verify}


def _say(text: str) -> None:
    terminal.print(text)


def _fail(text: object) -> None:
    tell_error("everclip-data", text)


if __name__ == "__main__":
    main()
