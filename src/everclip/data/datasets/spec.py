"""What is known of every data set before it is read: `<key>.toml` beside its reader. Imports no torch."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter

from everclip.data.files import content_md5
from everclip.errors import DataError, MissingError

Part = Literal["train", "val", "test"]
HERE = Path(__file__).parent

log = logging.getLogger("everclip")


@dataclass(frozen=True)
class Split:
    """One published way to divide a data set.

    Attributes:
        counts: pictures of each part.
        classes: how many there are; 0 where pictures have captions instead.
        templates: of the prompts, in the convention of those who use the split.
        per_class: fewest and most pictures of a class in each part, where published.
        captions: of the pictures of each part, where they have such.
        files: the lists, below the data set's folder, and what else a split alone is read from.
        names: of the classes, where the publisher's files hold none in natural language.
        steps: how to get `files` where no download gives them.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    counts: Mapping[Part, int]
    classes: int = 0
    templates: tuple[str, ...] = ()
    per_class: Mapping[Part, tuple[int, int]] = field(default_factory=dict)
    captions: Mapping[Part, int] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    steps: str = ""


@dataclass(frozen=True)
class Download:
    """A file of the publisher.

    Attributes:
        url: where it is.
        gives: what it puts into the data set's folder; there already means nothing to do.
        into: the folder below the root that it is extracted (an archive) or put (any other file) into.
        md5: as published, empty where it is not.
        inner: archives inside the archive, below `into`, extracted in turn.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    url: str
    gives: str
    into: str = "."
    md5: str = ""
    inner: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataSpec:
    """A data set: where it belongs, what it holds, how to get it.

    Attributes:
        key: stem of the reader's module and of this file.
        title: its name in print.
        homepage: of the publisher.
        licence: the terms, in a few words.
        size: of the download, in words.
        folders: names that its folder may have below the root; the first that is there is read.
        needs: what the folder holds whatever the split.
        splits: the first is the default.
        downloads: what can be fetched without asking anyone.
        steps: what a person must do instead, or besides.
        md5: of what is in files below the folder (unzipped), as published.
        reader: module that reads it, where that reads several and is told which; empty: the one called as the key.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    key: str
    title: str
    homepage: str
    licence: str
    size: str
    folders: tuple[str, ...]
    needs: tuple[str, ...]
    splits: Mapping[str, Split]
    downloads: tuple[Download, ...] = ()
    steps: str = ""
    md5: Mapping[str, str] = field(default_factory=dict)
    reader: str = ""

    def folder(self, root: Path) -> Path:
        """Where the data set lies below the root, or belongs if it is not there."""
        candidates = [root / name for name in self.folders]
        return next((f for f in candidates if all(present(f / need) for need in self.needs)), candidates[0])

    def expected(self, root: Path, split: str) -> list[Path]:
        """The files and folders that a split is read from."""
        return [self.folder(root) / name for name in (*self.needs, *self.splits[split].files)]

    def require(self, root: Path, split: str) -> Path:
        """The data set's folder, once everything expected is in it; warns of files that are not the published ones.

        Raises:
            MissingError: names the first that is not there, and the remedy.
        """
        for path in self.expected(root, split):
            if not present(path):
                raise MissingError(f"{self.title}: {path} is not there; {self.remedy}")
        if differing := self.differing(root):
            more = f", and {len(differing) - 1} more such files" if differing[1:] else ""
            log.warning(
                "%s: %s%s; results may differ from those on the published files", self.title, differing[0], more
            )
        return self.folder(root)

    def differing(self, root: Path) -> list[str]:
        """What is said of each file that is there but not as published."""
        said = []
        for name, published in self.md5.items():
            path = there(self.folder(root) / name)
            try:
                if path.exists() and (found := content_md5(path)) != published:
                    said.append(f"{path} has MD5 {found}, published is {published}")
            except DataError as error:
                said.append(str(error))
        return said

    def load(self, root: Path, split: str) -> Any:
        """What the data set's reader makes of it: `LabelledImages` or `CaptionedData`."""
        known_as = {"key": self.key} if self.reader else {}
        reader = import_module(f"everclip.data.datasets.{self.reader or self.key}")
        return reader.load(root=str(root), split=split, **known_as)

    @property
    def identified(self) -> bool:
        """Whether the checksums tell all that is read, so that nothing in it can be changed or out of order."""
        return bool(self.md5) and set(self.needs) <= set(self.md5)

    @property
    def remedy(self) -> str:
        """What to do when something is not there."""
        return f"everclip-data prepare {self.key} gets it or says how (paths.data or EVERCLIP_DATA sets the root)"


def present(path: Path) -> bool:
    """Whether a file or folder is there, gzipped or not."""
    return there(path).exists()


def there(path: Path) -> Path:
    """The file or folder itself or, where that is not there, the gzipped file."""
    return path if path.exists() else path.with_name(f"{path.name}.gz")


@cache
def spec(key: str) -> DataSpec:
    """What is known of one data set."""
    content = tomllib.loads((HERE / f"{key}.toml").read_text(encoding="utf-8"))
    return TypeAdapter(DataSpec).validate_python({"key": key, **content})


def keys() -> list[str]:
    """All data sets, sorted."""
    return sorted(path.stem for path in HERE.glob("*.toml"))
