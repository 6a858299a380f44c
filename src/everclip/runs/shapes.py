"""What the files of a run folder look like, as far as somebody reads them; other keys may hold anything.

Figures are bounded such that their sums are figures too, tasks such that a table of them fits into memory.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

Figure = Annotated[float, Field(allow_inf_nan=False, ge=-1e18, le=1e18)]
Whole = Annotated[int, Field(ge=0, lt=2**63)]


class _Shape(BaseModel):
    """Keys with a default may be missing."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Attempt(_Shape):
    start: str = ""
    host: str = ""
    reason: str | None = None


class _Weights(_Shape):
    sha256: str | None = None


class RunShape(_Shape):
    """`run.json`; of a run that was refused early it says little."""

    state: Literal["running", "preempted", "failed", "finished"] | None = None
    method: str = ""
    sequence: str = ""
    backbone: str = ""
    digest: str = ""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0
    overrides: list[str] = []
    command: list[str] = []
    tags: list[str] = []
    notes: str = ""
    attempts: list[_Attempt] = []
    sessions: Annotated[int, Field(ge=1, le=100_000)] | None = None
    protocol: str = ""
    weights: _Weights = _Weights()
    versions: dict[str, str | None] = {}
    commit: str | None = None
    id: str | None = None
    fingerprint: str | None = None
    contents: str | None = None
    given: str | None = None
    inputs: list[Annotated[list[str], Field(min_length=3, max_length=3)]] | None = None
    device: str | None = None
    devices: Whole | None = None
    precision: str | None = None


class _Score(_Shape):
    value: Figure
    count: Annotated[int, Field(ge=1, lt=2**53)]


class _Task(_Shape):
    task: Annotated[int, Field(ge=0, lt=100_000)]
    name: str = ""
    scores: dict[str, _Score] = {}
    correct: Whole = 0  # with `count`, what older versions wrote instead of scores
    count: Annotated[int, Field(ge=1, lt=2**53)] = 1
    predicted: list[Whole] = []

    @model_validator(mode="after")
    def _is_scored(self) -> _Task:
        if not ({"scores"} <= self.model_fields_set or {"correct", "count"} <= self.model_fields_set):
            raise ValueError("no scores")
        return self


class SessionShape(_Shape):
    """A line of `sessions.jsonl`."""

    index: Whole
    name: str = ""
    tasks: list[_Task]
    train_seconds: Figure = 0.0
    eval_seconds: Figure = 0.0
    eval_images_per_second: Figure | None = None
    seen_classes: Whole | None = None
    train_images: Whole | None = None
    train_steps: Whole | None = None


Shape = type[BaseModel] | TypeAdapter[Any]
FIGURES = TypeAdapter(dict[str, Figure | None], config=ConfigDict(strict=True))


def _curves_are_lists(summary: dict[str, Any]) -> dict[str, Any]:
    for key, value in summary.items():
        if isinstance(value, list) != key.endswith("_per_session"):
            raise ValueError(f"{key} must be a {'list of figures' if key.endswith('_per_session') else 'figure'}")
    return summary


SUMMARY = TypeAdapter(
    Annotated[dict[str, Figure | list[Figure] | None], AfterValidator(_curves_are_lists)],
    config=ConfigDict(strict=True),
)


def misfit(facts: dict[str, Any], shape: Shape) -> str:
    """The first thing that is not as it should be, empty if there is none."""
    try:
        shape.validate_python(facts) if isinstance(shape, TypeAdapter) else shape.model_validate(facts)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
    return ""
