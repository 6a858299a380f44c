"""The concepts that everything else is written in: classes, samples, sessions, tasks, phases."""

from everclip.types.classes import ClassSet, Positive, Template
from everclip.types.samples import Batch, ImageSet, Indices, Reference, Resize, SessionView
from everclip.types.sequence import Session, Task, TaskSequence
from everclip.types.training import Draws, Phase

__all__ = [
    "Batch",
    "ClassSet",
    "Draws",
    "ImageSet",
    "Indices",
    "Phase",
    "Positive",
    "Reference",
    "Resize",
    "Session",
    "SessionView",
    "Task",
    "TaskSequence",
    "Template",
]
