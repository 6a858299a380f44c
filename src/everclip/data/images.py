"""Labelled pictures: arrays in memory, files on disk, several sets as one."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from typing_extensions import override

from everclip.data.files import check_regular, ends
from everclip.digest import json_sha256, tensor_sha256
from everclip.errors import DataError
from everclip.storage import in_threads
from everclip.types import NO_CLASS, Batch, Draw, Indices, Prepare, Samples

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # others are decoded by programs, or by little used code
LONGEST = 100  # times the shorter side
ENDS = {  # how files of pictures begin and end; empty: nothing tells the end
    b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG\r\n\x1a\n": b"IEND", b"RIFF": b"", b"GIF8": b"", b"BM": b"", b"II*\0": b"",
    b"MM\0*": b"", b"P": b"",
}  # fmt: skip


class ArrayImages(Samples):
    """Pictures of one size in memory.

    Args:
        pixels: (N, H, W, 3) uint8, RGB.
        labels: (N,) global class ids.
        identity: what the pictures were made from; part of the fingerprint instead of the pixels.
        files: that they were read from.
    """

    def __init__(self, pixels: NDArray[np.uint8], labels: Indices, identity: str, files: Sequence[Path] = ()) -> None:
        if len(pixels) != len(labels):
            raise DataError(f"{len(pixels)} pictures but {len(labels)} labels")
        self._pixels = pixels
        self.labels = labels
        self._identity = identity
        self.files = tuple(files)
        self._rows: Indices = np.arange(len(labels))

    def read(self, indices: Sequence[int], prepare: Prepare, draw: Draw | None = None) -> Batch:
        chosen = self._pixels[self._rows[np.asarray(indices, dtype=np.int64)]]
        return self.batch(prepare_pixels(chosen, prepare, indices, draw), indices)

    def subset(self, indices: Sequence[int] | Indices) -> ArrayImages:
        chosen = ArrayImages.__new__(ArrayImages)
        chosen._pixels, chosen._identity, chosen.files = self._pixels, self._identity, self.files
        chosen._rows = self._rows[np.asarray(indices, dtype=np.int64)]
        chosen.labels = self.labels[np.asarray(indices, dtype=np.int64)]
        return chosen

    def fingerprint(self) -> str:
        return json_sha256([self._identity, self._rows.tolist(), self.labels.tolist()])

    def version(self) -> str:
        return tensor_sha256(torch.from_numpy(self._pixels[self._rows]))


class Form(ABC):
    """How a file becomes a sample: a picture, or a clip. Equal forms make the same of a file.

    Attributes:
        title: what a file is called.
        suffixes: of files in class folders.
        num_frames, drawn: see `Samples`.
    """

    title: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    num_frames: int | None = None
    drawn: bool = False

    @abstractmethod
    def read(self, path: Path, prepare: Prepare, draw: Draw | None, position: int) -> Tensor:
        """What is seen of a file, (3, S, S) uint8 or (T, 3, S, S) or more; arguments as in `Samples.read`.

        Raises:
            DataError: the file cannot be read; names it.
        """

    @abstractmethod
    def damage(self, path: Path, deep: bool = False) -> str:
        """Why a file cannot be read, empty where it can; a look at its ends may do unless `deep`."""

    def accepts(self, path: Path) -> bool:
        """Whether a path in a class folder is a sample."""
        return path.suffix.lower() in self.suffixes and not path.name.startswith(".")

    def files(self, paths: Sequence[Path]) -> Iterable[Path]:
        """What samples are read from."""
        return paths

    def stat(self, path: Path) -> tuple[int, int]:
        """Bytes of a sample, and when it was last changed in nanoseconds."""
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns

    def facts(self) -> list[Any]:
        """What besides names and sizes of files tells what is seen of them; in fingerprints unless empty."""
        return []

    @property
    def trained(self) -> Form:
        """The same for training samples, which are never shown in several views at once."""
        return self


@dataclass(frozen=True)
class Pictures(Form):
    """A file is a picture."""

    title = "picture"
    suffixes = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm")

    @override
    def read(self, path: Path, prepare: Prepare, draw: Draw | None, position: int) -> Tensor:
        return (draw.showing(prepare, position) if draw else prepare)(read_image(path))

    @override
    def damage(self, path: Path, deep: bool = False) -> str:
        try:
            if deep or not _has_both_ends(path):
                read_image(path)
        except DataError as error:
            return str(error)
        return ""


PICTURES = Pictures()


class FileImages(Samples):
    """Pictures, or clips, as files (of a clip also a folder of frames), decoded when asked for.

    Args:
        paths: of the pictures.
        labels: (N,) global class ids.
        root: the fingerprint names the files relative to it, so that a data set may be moved.
        lists: files that name the pictures.
        form: what is made of a file.
    """

    def __init__(
        self, paths: Sequence[Path], labels: Indices, root: Path, lists: Sequence[Path] = (), form: Form = PICTURES
    ) -> None:
        if len(paths) != len(labels):
            raise DataError(f"{len(paths)} pictures but {len(labels)} labels")
        self.paths = tuple(paths)
        self.labels = labels
        self.root, self._lists, self.form = root, tuple(lists), form
        self.files = (*form.files(self.paths), *self._lists)
        self.num_frames, self.drawn = form.num_frames, form.drawn

    def read(self, indices: Sequence[int], prepare: Prepare, draw: Draw | None = None) -> Batch:
        shown = [self.form.read(self.paths[i], prepare, draw, i) for i in indices]
        return self.batch(torch.stack(shown), indices)

    def subset(self, indices: Sequence[int] | Indices) -> FileImages:
        chosen = [self.paths[i] for i in indices]
        return FileImages(chosen, self.labels[np.asarray(indices, np.int64)], self.root, self._lists, self.form)

    @property
    def trained(self) -> FileImages:
        """The same as training samples, see `Form.trained`."""
        return FileImages(self.paths, self.labels, self.root, self._lists, self.form.trained)

    def shown(self) -> Indices:
        numbers: dict[Path, int] = {}
        return np.array([numbers.setdefault(path, len(numbers)) for path in self.paths], dtype=np.int64)

    def fingerprint(self) -> str:
        files = [[name, size] for name, (size, _) in self._stats()]
        return json_sha256([files, self.labels.tolist(), *self.form.facts()])

    def version(self) -> str:
        return json_sha256([[name, *found] for name, found in self._stats()] + self.form.facts())

    def _stats(self) -> list[tuple[str, tuple[int, int]]]:
        """The files' names relative to the root, and what the file system says of them."""
        names = [path.relative_to(self.root).as_posix() for path in self.paths]
        return list(zip(names, in_threads(self.form.stat, self.paths), strict=True))


def _has_both_ends(path: Path) -> bool:
    try:
        head, tail = ends(path)
    except (OSError, DataError):
        return False
    return any(head.startswith(start) and end in tail for start, end in ENDS.items())


class ConcatSamples(Samples):
    """Several sets one after the other."""

    def __init__(self, parts: Sequence[Samples]) -> None:
        self._parts = tuple(parts)
        self.labels = np.concatenate([part.labels for part in parts])
        self.texts = tuple(own for part in parts for own in part.texts)
        self.num_frames = parts[0].num_frames if parts else None
        self.drawn = any(part.drawn for part in parts)
        self.files = tuple(path for part in parts for path in part.files)
        self._starts = np.cumsum([0, *(len(part) for part in parts)])

    def read(self, indices: Sequence[int], prepare: Prepare, draw: Draw | None = None) -> Batch:
        wanted = np.asarray(indices, dtype=np.int64)
        owner = np.searchsorted(self._starts, wanted, side="right") - 1
        read, places = [], []
        for part in np.unique(owner):
            at, start = np.flatnonzero(owner == part), int(self._starts[part])
            own = draw and draw.shifted(start)
            read.append(self._parts[part].read((wanted[at] - start).tolist(), prepare, own))
            places.append(at)
        joined = Batch.union(read, np.argsort(np.concatenate(places)).tolist())
        return replace(joined, indices=torch.from_numpy(wanted))

    def subset(self, indices: Sequence[int] | Indices) -> ConcatSamples:
        wanted = np.asarray(indices, dtype=np.int64)
        owner = np.searchsorted(self._starts, wanted, side="right") - 1
        cuts = np.flatnonzero(np.diff(owner)) + 1
        runs = [run for run in np.split(np.arange(len(wanted)), cuts) if len(run)]
        return ConcatSamples(
            [self._parts[owner[run[0]]].subset(wanted[run] - self._starts[owner[run[0]]]) for run in runs]
        )

    def fingerprint(self) -> str:
        return json_sha256([part.fingerprint() for part in self._parts])

    def version(self) -> str:
        return json_sha256([part.version() for part in self._parts])


def prepare_pixels(
    pixels: NDArray[np.uint8], prepare: Prepare, positions: Sequence[int], draw: Draw | None = None
) -> Tensor:
    """Pictures (N, H, W, 3) of one size as the backbone wants them, (N, 3, S, S) uint8.

    Args:
        pixels: of the pictures.
        prepare: see `Samples.read`.
        positions: of the samples that they belong to.
        draw: see `Samples.read`.
    """
    if draw is not None and draw.view is not None:
        shown = [draw.showing(prepare, position) for position in positions]
        return torch.stack([show(Image.fromarray(picture)) for show, picture in zip(shown, pixels, strict=True)])
    first, plain = prepare(Image.fromarray(pixels[0])), torch.from_numpy(pixels).permute(0, 3, 1, 2)
    if torch.equal(first, plain[0]):  # already of the right size: preparing would change nothing
        return plain
    return torch.stack([first, *(prepare(Image.fromarray(picture)) for picture in pixels[1:])])


def upright(image: Image.Image) -> Image.Image:
    """A picture as RGB, turned upright by its EXIF orientation.

    Raises:
        DataError: it is so long and thin that resizing its shorter side would take any memory.
    """
    if max(image.size) > LONGEST * min(image.size):
        raise DataError(f"{image.width} x {image.height} pixels, one side more than {LONGEST} times the other")
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I"):  # 16 bits of grey, which `convert` would cut off at 255
        turned = Image.fromarray((np.asarray(turned) >> 8).clip(0, 255).astype(np.uint8))
    return turned.convert("RGB")


def read_image(path: Path) -> Image.Image:
    """The picture in a file, as `upright` makes it.

    Raises:
        DataError: the file cannot be read as a picture; names it.
    """
    try:
        check_regular(path)
    except (OSError, ValueError, DataError) as error:
        raise DataError(f"{path} cannot be read as a picture: {error}") from error
    return decode(path, str(path))


def decode(source: Path | BytesIO, name: str) -> Image.Image:
    """The picture in a file or in its content, as `upright` makes it.

    Raises:
        DataError: it cannot be read as a picture; calls it by its name.
    """
    try:
        with Image.open(source, formats=FORMATS) as image:
            return upright(image)
    except Exception as error:
        raise DataError(f"{name} cannot be read as a picture: {error}") from error


class Unlabelled(Samples):
    """Samples whose labels, texts and targets are not shown."""

    def __init__(self, source: Samples) -> None:
        self._source = source
        self.labels = np.full_like(source.labels, NO_CLASS)
        self.num_frames, self.drawn, self.files = source.num_frames, source.drawn, source.files

    def read(self, indices: Sequence[int], prepare: Prepare, draw: Draw | None = None) -> Batch:
        read = self._source.read(indices, prepare, draw)
        return replace(read, labels=torch.full_like(read.labels, NO_CLASS), texts=None, targets=None)

    def subset(self, indices: Sequence[int] | Indices) -> Unlabelled:
        return Unlabelled(self._source.subset(indices))

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def version(self) -> str:
        return self._source.version()


class Relabelled(Samples):
    """Samples whose labels are written otherwise: `ids[i]` for label i.

    Stored runs know them by the first of these, where the others follow it.
    """

    def __init__(self, source: Samples, ids: Sequence[int]) -> None:
        self._source, self._ids = source, np.asarray(ids, dtype=np.int64)
        self.labels = self._ids[source.labels]
        self.texts, self.num_frames = source.texts, source.num_frames
        self.drawn, self.files = source.drawn, source.files

    def read(self, indices: Sequence[int], prepare: Prepare, draw: Draw | None = None) -> Batch:
        read = self._source.read(indices, prepare, draw)
        return replace(read, labels=torch.from_numpy(self.labels[np.asarray(indices, dtype=np.int64)]))

    def subset(self, indices: Sequence[int] | Indices) -> Relabelled:
        return Relabelled(self._source.subset(indices), self._ids.tolist())

    def fingerprint(self) -> str:
        ids = self._ids.tolist()
        in_turn = ids == list(range(ids[0], ids[0] + len(ids)))
        return json_sha256([self._source.fingerprint(), ids[0] if in_turn else ids])

    def version(self) -> str:
        return self._source.version()
