"""The files that list image-text pairs, told apart by what is in them.

- CSV with the columns `path,caption[,split][,session]`, or as Kaggle has Flickr8K (`image,caption`) and Flickr30K
  (`image_name| comment_number| comment`);
- JSON of COCO (`images`, `annotations`), of Karpathy (`images` with `sentences` and `split`), of ShareGPT4V (a list of
  `image`, `conversations`);
- JSON lines `{"image": ..., "captions": [...]}`, or `file_name` and `caption` or `text`; with `split` and `session`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from everclip.data.captions.pair_list import PARTS, FileList, Row
from everclip.data.datasets.layouts import read_json
from everclip.data.files import Table, check_regular, read_bytes
from everclip.data.images import PICTURES, Form
from everclip.errors import DataError

FOLDERS = ("Images", "images", "flickr30k-images", "flickr30k_images")  # beside a list that names files alone
BLOCK, ITEM = 2**16, 2**24  # characters read at a time, and of an item of a list
COLUMNS = ("path", "caption", "split", "session")
KAGGLE_8K, KAGGLE_30K = ("image", "caption"), ("image_name", "comment_number", "comment")


def read_list(path: Path, folder: Path | None = None, form: Form = PICTURES) -> FileList:
    """A list in any of the forms above.

    Args:
        path: of the list.
        folder: that the pictures' paths start from; None: the list's own, or one of `FOLDERS` in it.
        form: what is made of a file.

    Raises:
        DataError: it cannot be read, has another form, or a path leads out of the folder.
    """
    folders = [folder] if folder else [path.parent, *(path.parent / name for name in FOLDERS)]
    if path.suffix == ".jsonl":
        return FileList(path, list(_lines(path)), folders, form=form)
    if path.suffix != ".json":
        return FileList(path, table(path), folders, form=form)
    if _begins(path) == "[":
        return FileList(path, conversations(path, items(path)), folders, "entry", form)
    content = read_json(path)
    for reader, unit in ((coco, "annotation"), (karpathy, "picture")):
        if (rows := reader(path, content)) is not None:
            return FileList(path, rows, folders, unit, form)
    raise DataError(
        f"{path} is no list of captions: expected COCO's images and annotations, Karpathy's images with sentences, or "
        "ShareGPT4V's list of image and conversations"
    )


def table(path: Path) -> list[Row]:
    """The captions of a CSV file, or of `results.csv`.

    Raises:
        DataError: it cannot be read, or has other columns.
    """
    text = _text(path)
    header = tuple(name.strip() for name in re.split("[|,]", text.split("\n", 1)[0]))
    if header == KAGGLE_30K:
        return list(_bars(path, text))
    if header == KAGGLE_8K:
        return list(columns(path, *KAGGLE_8K))
    if not set(header) >= set(COLUMNS[:2]) or not set(header) <= set(COLUMNS) or len(set(header)) < len(header):
        raise DataError(
            f"{path}: the first line is {','.join(header)[:200]!r}, but must be path,caption[,split][,session], or "
            "image,caption, or image_name| comment_number| comment"
        )
    return list(columns(path, "path", "caption"))


def columns(path: Path, picture: str, caption: str, shown: Callable[[str], str] = str) -> Iterator[Row]:
    """The captions of a CSV file with columns of these names.

    Args:
        path: of the file.
        picture: column of the pictures.
        caption: column of the captions.
        shown: a picture's path, of what its column says.

    Raises:
        DataError: it cannot be read; names the line.
    """
    lines = Table(path, _text(path))
    if absent := {picture, caption} - set(lines.columns):
        raise DataError(f"{path} has no column {min(absent)}; it has {', '.join(lines.columns)}")
    for number, values in lines:
        split = values.get("split", "")
        if "split" in values:
            _check_split(f"{path}, line {number}", split)
        yield Row(shown(values[picture]), values[caption], number, split, values.get("session", ""))


def _bars(path: Path, text: str) -> Iterator[Row]:
    """Flickr30K as Kaggle has it; one published line has no second bar."""
    for number, line in enumerate(text.split("\n")[1:], start=2):
        if not line.strip():
            continue
        cells = re.fullmatch(r"([^|]*)\|\s*\d+\s*[|\s](.*)", line, re.DOTALL)
        if not cells:
            raise DataError(
                f"{path}, line {number}: {line[:200]!r} has not the form image_name| comment_number| comment"
            )
        yield Row(cells[1].strip(), cells[2].strip(), number)


def _lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place} is no JSON: {error}") from error
        if not isinstance(content, dict):
            raise DataError(f"{place}: expected an object with image and captions")
        picture = _first(content, place, "image", "file_name", "path", "video")
        given = _first(content, place, "captions", "caption", "text")
        split, session = (content.get(key, "") for key in ("split", "session"))
        if "split" in content:
            _check_split(place, split)
        if not isinstance(session, str | int):
            raise DataError(f"{place}: session must be a name or a number")
        for text in _texts(place, given):
            yield Row(_name(place, picture), text, number, split, str(session))


def _first(content: dict[str, Any], place: str, *keys: str) -> Any:
    found = [key for key in keys if key in content]
    if not found:
        raise DataError(f"{place} has no {keys[0]} (or {' or '.join(keys[1:])})")
    return content[found[0]]


def coco(path: Path, content: Any) -> list[Row] | None:
    """COCO's captions by the order of its pictures; `place` is the number of the annotation, or of a bare picture."""
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        return None
    try:
        names = {image["id"]: _name(f"{path}, image {image['id']}", image["file_name"]) for image in content["images"]}
        captions: dict[Any, list[Row]] = {number: [] for number in names}
        for number, annotation in enumerate(content["annotations"]):
            place, owner = annotation.get("id", number), annotation["image_id"]
            if owner not in names:
                raise DataError(f"{path}, annotation {place} is of picture {owner}, which the file does not have")
            text = _text_of(f"{path}, annotation {place}", annotation["caption"])
            captions[owner].append(Row(names[owner], text, place))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no list of COCO: an image or annotation lacks {error}") from error
    return [row for number, own in captions.items() for row in own or [Row(names[number], "", number)]]


def karpathy(path: Path, content: Any) -> list[Row] | None:
    """Karpathy's captions; `restval` is for training, as everyone does."""
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images or not isinstance(images[0], dict) or "sentences" not in images[0]:
        return None
    rows = []
    for number, image in enumerate(images):
        place = f"{path}, picture {number}"
        try:
            folder, split = image.get("filepath", ""), image["split"].replace("restval", "train")
            name = _name(place, f"{folder}/{image['filename']}" if folder else image["filename"])
            texts = [_text_of(place, sentence["raw"]) for sentence in image["sentences"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{place} has not Karpathy's form: it lacks {error}") from error
        _check_split(place, split)
        rows += [Row(name, text, number, split) for text in texts or [""]]
    return rows


def conversations(path: Path, found: Iterable[Any]) -> list[Row]:
    """ShareGPT4V's captions: the first answer of each conversation."""
    rows = []
    for number, item in enumerate(found):
        place = f"{path}, entry {number}"
        try:
            text = _text_of(place, next(turn["value"] for turn in item["conversations"] if turn["from"] == "gpt"))
            rows.append(Row(_name(place, item["image"]), text, number))
        except (KeyError, TypeError, StopIteration) as error:
            lacks = error if str(error) else "an answer"
            raise DataError(f"{place} has not ShareGPT4V's form: it lacks {lacks}") from error
    return rows


def _texts(place: str, given: Any) -> list[str]:
    texts = given if isinstance(given, list) else [given]
    return [_text_of(place, text) for text in texts] or [""]


def _text_of(place: str, given: Any) -> str:
    if not isinstance(given, str):
        raise DataError(f"{place}: a caption must be text")
    return given.strip()


def _name(place: str, given: Any) -> str:
    if not isinstance(given, str):
        raise DataError(f"{place}: a picture must be named by its path")
    return given


def _check_split(place: str, split: Any) -> None:
    if split not in PARTS:
        raise DataError(f"{place}: split {split!r} must be {', '.join(PARTS[:-1])} or {PARTS[-1]}")


def items(path: Path) -> Iterator[Any]:
    """The items of a JSON list one by one: the lists of long captions are larger than memory likes.

    Raises:
        DataError: it is no such list, or an item is larger than `ITEM`.
    """
    decoder, held, number = json.JSONDecoder(), "", 0
    try:
        check_regular(path)
        with path.open(encoding="utf-8-sig") as file:
            held = file.read(BLOCK).lstrip()[1:]
            while True:
                held = held.lstrip().removeprefix("," if number else "").lstrip()
                if held.startswith("]"):
                    return
                try:
                    item, end = decoder.raw_decode(held)
                except ValueError as error:
                    more = file.read(BLOCK)
                    if not more or len(held) > ITEM:
                        raise DataError(f"{path}, entry {number} cannot be read as JSON: {error}") from error
                    held += more
                    continue
                yield item
                held, number = held[end:], number + 1
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error


def _begins(path: Path) -> str:
    """The first sign of a JSON file."""
    try:
        check_regular(path)
        with path.open(encoding="utf-8-sig") as file:
            return file.read(BLOCK).lstrip()[:1]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
