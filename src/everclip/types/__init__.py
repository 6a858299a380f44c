"""The concepts that everything else is written in: classes, samples, sessions, tasks, phases."""

from everclip.types.classes import NO_CLASSES, ClassSet, ClassTexts, Positive, Template, Templates
from everclip.types.described import Box, Described, Parse, Region, Relation
from everclip.types.judging import Evaluator, Guess, Model, Moments, Objective, Passes, Verdict
from everclip.types.samples import (
    FRAMES,
    NO_CLASS,
    Batch,
    Draw,
    Indices,
    Prepare,
    Reference,
    Samples,
    SessionView,
    View,
    as_clips,
    in_views,
)
from everclip.types.sequence import Session, Task, TaskSequence
from everclip.types.training import Draws, ParameterGroup, Phase

__all__ = [
    "FRAMES",
    "NO_CLASS",
    "NO_CLASSES",
    "Batch",
    "Box",
    "ClassSet",
    "ClassTexts",
    "Described",
    "Draw",
    "Draws",
    "Evaluator",
    "Guess",
    "Indices",
    "Model",
    "Moments",
    "Objective",
    "ParameterGroup",
    "Parse",
    "Passes",
    "Phase",
    "Positive",
    "Prepare",
    "Reference",
    "Region",
    "Relation",
    "Samples",
    "Session",
    "SessionView",
    "Task",
    "TaskSequence",
    "Template",
    "Templates",
    "Verdict",
    "View",
    "as_clips",
    "in_views",
]
