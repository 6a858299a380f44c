"""The pictures of a few-shot session: drawn, or as published lists name them; some more to judge choices by.

Source: KaiyangZhou/CoOp @ ff61507 (`datasets/oxford_pets.py`: of a seed's stream first the training pictures, then
`min(shots, 4)` validation pictures per class); FarinaMatteo/rethinking_fewshot_vlms @ 64ac143 (`datasets/utils.py`:
released lists).
Differs: CoOp judges ImageNet, whose split has no validation pictures, by the test set; here by training pictures that
are no shots. The files of a class of ImageNet are drawn from in sorted order, where that code has the file system's.
"""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from everclip.data.datasets.base import LabelledImages
from everclip.data.datasets.layouts import read_lines
from everclip.data.images import FileImages
from everclip.data.sequences.shots import choose_shots, coop_shots
from everclip.errors import ConfigError, DataError, MissingError
from everclip.types import Indices, Samples

FewDraw = Literal["seeded", "coop", "released"]
Validation = Literal["none", "few", "all"]
FEW = 4  # validation pictures of a class, unless there are fewer shots
LISTS = "split_fewshot"


class Few(NamedTuple):
    """The pictures of a session.

    Attributes:
        train: to train on.
        validation: to judge a method's own choices by; None if there are none.
        used: positions of all of them among the data set's training pictures, as far as they are such.
    """

    train: Samples
    validation: Samples | None
    used: Indices


def require_training(dataset: LabelledImages) -> None:
    """Refuses a data set for testing only.

    Raises:
        ConfigError: it has no training pictures.
    """
    if not len(dataset.train):
        raise ConfigError(f"{dataset.name} has no training pictures; it is a target of sequence=domain_generalisation")


def few_pictures(dataset: LabelledImages, shots: int | None, seed: int, draw: FewDraw, validation: Validation) -> Few:
    """The pictures of a few-shot session.

    Args:
        dataset: with its official split.
        shots: training pictures per class, None for all; a class with fewer gives all it has.
        seed: of the choice.
        draw: `seeded`, `coop`: see `choose_shots`; `released`: the lists that 2SFS published,
            `split_fewshot/shot_<shots>-seed_<seed>_{train,val}.jsonl` in the data set's folder, as they are.
        validation: `none`; `few`: `min(shots, 4)` per class; `all`. Of the split's validation pictures or, where it has
            none, of the training pictures that are left.

    Raises:
        ConfigError: a data set for testing only; no pictures to judge by; `released` without `shots`, or of pictures
            that are no files.
        MissingError: a released list is not there.
        DataError: a released list is not of this data set.
    """
    require_training(dataset)
    stream = random.Random(seed)
    pick = partial(coop_shots, stream=stream) if draw == "coop" else partial(choose_shots, seed=seed)
    chosen = _released(dataset.train, "train", shots, seed) if draw == "released" else pick(dataset.train.labels, shots)
    train = dataset.train.subset(chosen)
    if validation == "none":
        return Few(train, None, chosen)
    left = np.setdiff1d(np.arange(len(dataset.train)), chosen)
    pool = dataset.val or dataset.train.subset(left)
    if not len(pool):
        raise ConfigError(
            f"sequence.validation={validation}: {dataset.name} has no validation pictures and no training pictures left"
        )
    if validation == "all":
        judges = np.arange(len(pool))
    elif draw == "released" and dataset.val:
        judges = _released(pool, "val", shots, seed)
    else:
        judges = pick(pool.labels, min(shots or FEW, FEW))
    return Few(train, pool.subset(judges), chosen if dataset.val else np.concatenate([chosen, left[judges]]))


def _released(images: Samples, part: Literal["train", "val"], shots: int | None, seed: int) -> Indices:
    """Positions of the pictures that a released list names, in its order."""
    if shots is None or not isinstance(images, FileImages):
        raise ConfigError("sequence.draw=released needs sequence.shots=1, 2, 4, 8 or 16 and a data set in files")
    folder = next((f for f in (images.root, images.root.parent) if (f / LISTS).is_dir()), images.root)
    path = folder / LISTS / f"shot_{shots}-seed_{seed}_{part}.jsonl"
    if not path.is_file():
        raise MissingError(
            f"{path} is not there; https://github.com/FarinaMatteo/rethinking_fewshot_vlms has a script that puts the "
            "lists there (seeds 1, 2, 3; shots 1, 2, 4, 8, 16); sequence.draw=coop needs none"
        )
    position = {file: index for index, file in enumerate(images.paths)}
    chosen = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            item = json.loads(line)
            file, label = folder.parent / Path(item["_impath"]), int(item["_label"])
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}, line {number}: {line!r} has not the published form") from error
        if position.get(file) is None or images.labels[position[file]] != label:
            raise DataError(
                f"{path}, line {number}: {file} is no {part} picture of class {label}; is that another split's list?"
            )
        chosen.append(position[file])
    return np.array(chosen, dtype=np.int64)
