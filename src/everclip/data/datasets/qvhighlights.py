"""QVHighlights: texts of moments in videos of up to 150 seconds, three annotators' judgements of every two seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from everclip.data.datasets.moment_lists import read_moments
from everclip.data.datasets.spec import spec
from everclip.data.grounded import GroundedData
from everclip.data.images import Form
from everclip.data.video.form import USUAL

UNIT = 2.0  # seconds


def load(*, root: str, split: Literal["official"] = "official", clips: Form = USUAL) -> GroundedData:
    """QVHighlights below `root`; judged by the validation texts, since those for testing have no published moments.

    Args:
        root: of the data.
        split: 7,218 texts for training, 1,550 for validation.
        clips: how files become clips; 75 even parts are the judged ones.

    Raises:
        MissingError: a list or clip is not there.
        DataError: a list has another form than its publisher's.
    """
    known = spec("qvhighlights")
    folder = known.require(Path(root), split)
    train, test = (read_moments(folder / name, folder, clips, UNIT) for name in known.splits[split].files)
    return GroundedData("qvhighlights", train, test)
