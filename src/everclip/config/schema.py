"""The shared keys of a configuration with their types, limits and defaults. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GROUPS = ("backbone", "sequence", "method", "optimizer", "scheduler")
INJECTED = ("reference", "class_texts")  # parts of a method that asks for them
MISSING: Any = "???"  # as OmegaConf writes it, which lists of runs do not wait for
LOG_LEVELS = ("debug", "info", "warning", "error")


def number(default: Any, low: float, high: float | None = None) -> Any:
    """A dataclass field whose value must be at least `low` and at most `high`."""
    return field(default=default, metadata={"low": low, "high": high})


def choice(default: str, *allowed: str) -> Any:
    """A dataclass field with a fixed list of values."""
    return field(default=default, metadata={"allowed": allowed})


def added(key: Any, *, neutral: Any) -> Any:
    """A field that was added when there were runs already, and changes none of them at the value `neutral`."""
    return field(default=key.default, metadata={**key.metadata, "neutral": neutral})


@dataclass
class BaseBudget:
    """Budget of the base session where it differs; null: as in the other sessions."""

    epochs: int | None = number(None, 0)
    batch_size: int | None = number(None, 1)


@dataclass
class TrainConfig:
    """Budget of a session: passes over its pictures, pictures per step over all devices, and a cap on steps.

    augment: how pictures look in training, see `everclip.data.augment.RandomView`; views: how many such looks a picture
    has, which passes show in turn; null: another in every pass.
    """

    epochs: int = number(5, 0)
    batch_size: int = number(32, 1)
    max_steps: int | None = number(None, 1)
    gradient_clip: float | None = number(None, 0)
    augment: str = choice("none", "none", "flip", "crop", "crop_flip", "crop_flip_bicubic", "half_crop_flip")
    views: int | None = added(number(None, 1), neutral=None)
    base: BaseBudget = field(default_factory=BaseBudget)


@dataclass
class VideoConfig:
    """Clips in files: what decodes them, `auto`: PyAV, else torchcodec.

    cache: keep all frames that may be shown of a clip, as large as `short_side` of its sequence leaves them, on `disk`
    under `paths.cache`.
    """

    backend: str = choice("auto", "auto", "pyav", "torchcodec")
    cache: str = choice("off", "off", "disk")


@dataclass
class DataConfig:
    """Loading: worker processes per device, pictures per forward pass in evaluation.

    cache: keep decoded and resized pictures on `disk` (under `paths.cache`, for later runs too) or in `memory`. Off
    unless asked for: a large data set would fill a home folder unasked.
    features: keep what a method's frozen image tower makes of pictures, which then pass it once: in `memory`, on `disk`
    (under `paths.cache`, for the runs of a sweep and later ones; features_gb for all of them), or `off`. Where only the
    first blocks are frozen, what they make of a session's pictures is kept if it takes no more than features_gb, and
    half of the free memory.
    """

    num_workers: int = number(0, 0)
    eval_batch_size: int = number(250, 1)
    cache: str = choice("off", "off", "disk", "memory")
    features: str = choice("memory", "off", "memory", "disk")
    features_gb: float = number(20.0, 0)
    video: VideoConfig = field(default_factory=VideoConfig)


@dataclass
class TrainerConfig:
    """Where to run, as in Lightning; precision auto: bfloat16 mixed on a GPU that has it, float32 elsewhere.

    strategy: `ddp`: data parallel; `fsdp`: also divides frozen weights; auto: `ddp` on more than one device.
    accumulate: micro-batches per step; auto_batch: double them when memory does not hold a step; compile: the blocks of
    prompted towers by torch.compile, which takes a minute or so first; gradient_checkpointing: blocks keep their input
    alone and are computed again in the backward pass, for half of the memory and up to a quarter more time; profiler:
    where the time of training goes, by Lightning's profiler of that name, into profile/ of the run folder;
    detect_anomaly: name the operation whose gradient is not finite.
    """

    accelerator: str = choice("auto", "auto", "cpu", "gpu", "cuda", "mps")
    devices: Any = 1
    num_nodes: int = number(1, 1)
    strategy: str = choice("auto", "auto", "ddp", "fsdp")
    precision: str = choice("auto", "auto", "32-true", "bf16-mixed", "16-mixed")
    log_every: int = number(10, 1)
    accumulate: int = number(1, 1)
    auto_batch: bool = False
    compile: bool = False
    gradient_checkpointing: bool = False
    profiler: str = choice("off", "off", "simple", "advanced", "pytorch")
    detect_anomaly: bool = False


@dataclass
class CheckpointConfig:
    """How often a session in training is saved; null: not because of steps, or of time."""

    every_n_steps: int | None = number(None, 1)
    every_n_minutes: float | None = number(10, 0)


@dataclass
class WandbConfig:
    """W&B; mode auto: `WANDB_MODE`, else online if logged in, else offline."""

    enabled: bool = True
    project: str = "everclip"
    entity: str | None = None
    mode: str = choice("auto", "auto", "online", "offline", "disabled")
    log_model: bool = False


@dataclass
class LoggerConfig:
    """Mirrors of the run folder."""

    csv: bool = True
    tensorboard: bool = False
    wandb: WandbConfig = field(default_factory=WandbConfig)


@dataclass
class PathsConfig:
    """Where results go, where data sets lie, where what can be made again is kept."""

    outputs: str = "outputs"
    data: str = MISSING
    cache: str = MISSING


@dataclass
class RunConfig:
    """Shared keys. The groups below are checked against the constructor they name.

    eval: a stored session to evaluate, `session_03` or the path of a checkpoint; force: take a run folder from a
    process of another host; restart: begin anew, whatever the run folder holds; trust: packages besides everclip that a
    stored run's configuration may name methods of; plan: measure a few steps and say what the run would cost;
    validation: share of each class's training pictures that takes the place of the test set; image_search: also judge
    tasks with class labels by image-to-image search, see `everclip.evaluation.image_search`; tags, notes: what you want
    to find the run by, and to remember of it; a later command that gives others changes them, one without leaves them;
    limit, overfit: see `everclip.data.reduced`; print_config: show the composed configuration first.

    `reference` and `class_texts` count, in checks and digest, as part of a method that asks for them by
    `reference: ${reference}`, `class_texts: ${class_texts}`.
    """

    seed: int = number(0, 0, 2**31 - 1)
    check: bool = False
    plan: bool = False
    eval: str | None = None
    force: bool = False
    restart: bool = False
    trust: list[str] = field(default_factory=list)
    max_sessions: int | None = number(None, 1)
    validation: float | None = added(number(None, 0.01, 0.5), neutral=None)
    image_search: bool = added(field(default=False), neutral=False)
    limit: int | None = added(number(None, 1), neutral=None)
    overfit: int | None = added(number(None, 1), neutral=None)
    print_config: bool = False
    tags: list[str] | None = None
    notes: str | None = None
    log_level: str = choice("info", *LOG_LEVELS)
    train: TrainConfig = field(default_factory=TrainConfig)
    data: DataConfig = field(default_factory=DataConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    backbone: Any = MISSING
    sequence: Any = MISSING
    reference: Any = MISSING
    class_texts: Any = MISSING
    method: Any = MISSING
    optimizer: Any = MISSING
    scheduler: Any = MISSING


def conf_dir() -> Path:
    """The configuration files: inside the installed package, or beside `src` in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parents[1] / "conf"
