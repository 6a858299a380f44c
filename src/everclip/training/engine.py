"""Runs phases, feature passes and forward passes on the right device, in the right precision, on every process."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
import torch.distributed
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from everclip.data.feature_files import GIGABYTE, FeatureFiles
from everclip.data.loading import OrderedBatches, SeededBatches, make_loader
from everclip.errors import ConfigError, MemoryFullError, NotFiniteError
from everclip.methods.base import Encode, Extract, Method
from everclip.training.features import FrozenFeatures, looks_of
from everclip.training.passes import EnginePasses
from everclip.training.peers import Peers
from everclip.training.phases import PhaseModule, PhaseState, Training, Watcher
from everclip.training.profiling import make_profiler
from everclip.types import Batch, Draw, Objective, Passes, Phase, Samples, Session, View

log = logging.getLogger("everclip")


class Engine:
    """Device, precision and processes of a run.

    Args:
        accelerator: `auto`, `cpu`, `gpu`, as in Lightning.
        devices: how many (or which) per node.
        num_nodes: machines.
        strategy: `auto`, `ddp`, or `fsdp`: as `ddp`, with the frozen weights of the blocks divided among processes.
        precision: as in Lightning, or `auto`: bfloat16 mixed precision on a GPU that has it, float32 elsewhere.
        num_workers: loader processes.
        features: where features of frozen towers are kept, see `Method.frozen_images`: in `memory`, in files for later
            runs too, or `off`.
        eval_batch_size: pictures per forward pass without gradients.
        profiler: see `everclip.training.profiling`; it writes below `profiles`.
        detect_anomaly: name the operation whose gradient is not finite, see torch.autograd.
        accumulate: micro-batches per step and process, or pieces of the passes through the backbone where a loss
            compares the samples of a batch; the step stays the same up to rounding.
        auto_batch: double the micro-batches, and go on, when the device's memory does not hold a step.
        seed: of the order of batches and of augmentation.
        peers: looks after the processes that are started.

    Raises:
        ConfigError: a device that this machine does not have, or a precision that the device does not have.
    """

    def __init__(
        self,
        *,
        accelerator: str = "auto",
        devices: Any = 1,
        num_nodes: int = 1,
        strategy: str = "auto",
        precision: str = "auto",
        num_workers: int = 0,
        features: Literal["off", "memory"] | FeatureFiles = "memory",
        features_limit: int = 20 * GIGABYTE,
        eval_batch_size: int = 256,
        accumulate: int = 1,
        auto_batch: bool = False,
        seed: int = 0,
        peers: Peers | None = None,
        profiler: Literal["off", "simple", "advanced", "pytorch"] = "off",
        detect_anomaly: bool = False,
    ) -> None:
        if precision == "auto":
            on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
            precision = "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"
        if precision == "16-mixed" and (accelerator == "cpu" or (accelerator == "auto" and not _has_gpu())):
            raise ConfigError("trainer.precision=16-mixed needs a GPU; on a CPU use bf16-mixed or 32-true")
        self.precision = precision
        self._settings: dict[str, Any] = {
            "accelerator": accelerator,
            "devices": devices,
            "num_nodes": num_nodes,
            "strategy": "ddp" if strategy == "fsdp" else strategy,
            "precision": precision,
        }
        self._sharded = strategy == "fsdp"
        if SLURMEnvironment.detect():  # requeueing is the job's business: it sees exit code 75
            self._settings["plugins"] = SLURMEnvironment(auto_requeue=False)
        try:
            self._fabric = Fabric(**self._settings)
            if peers is not None:
                peers.watch(self._fabric.strategy.launcher)
            self._fabric.launch()
        except (RuntimeError, ValueError, TypeError, MisconfigurationException) as error:
            asked, reason = f"trainer.accelerator={accelerator} trainer.devices={devices}", str(error).rstrip(".!")
            raise ConfigError(f"{asked}: {reason}; trainer=auto takes what this machine has") from error
        self.device = self._fabric.device
        self.rank = self._fabric.global_rank
        self.world_size = self._fabric.world_size
        if isinstance(devices, int) and devices > 0 and self.world_size != devices * num_nodes:
            raise ConfigError(f"{devices} devices on {num_nodes} nodes were asked for, {self.world_size} processes run")
        if self._sharded and self.world_size == 1:
            raise ConfigError("trainer.strategy=fsdp divides weights among processes: trainer.devices=2 or more")
        self._num_workers = num_workers
        self._profiler, self._detect_anomaly = profiler, detect_anomaly
        self.profiles = Path("profile")
        self._features = FrozenFeatures(
            features != "off",
            partial(EnginePasses, self),
            features_limit,
            # Divided weights cannot be told from others by the part that lies here.
            files=features if isinstance(features, FeatureFiles) and not self._sharded else None,
            circumstances=[
                self.precision, self.device.type, self.world_size, eval_batch_size, torch.get_num_threads(),
            ],
            agreed=lambda own: bool(self.gather(torch.tensor([own], device=self.device)).all()),
            writes=self.rank == 0,
        )  # fmt: skip
        self._eval_batch_size = eval_batch_size
        self._parts = accumulate
        self._auto_batch = auto_batch
        self._seed = seed

    @property
    def description(self) -> str:
        """Kind of device, precision and processes, for people."""
        processes = "1 process" if self.world_size == 1 else f"{self.world_size} processes"
        return f"{self.device.type}, {self.precision}, {processes}"

    def place(self, method: Method) -> None:
        """Moves a method to this process's device, dividing frozen weights if asked for.

        Raises:
            ConfigError: its weights cannot be divided.
        """
        if self._sharded and not method.shardable:
            raise ConfigError(
                "trainer.strategy=fsdp cannot divide the weights of this method; use trainer.strategy=ddp"
            )
        if self._sharded:  # block by block, so that a device never holds them all
            method.backbone.shard_blocks(init_device_mesh(self.device.type, (self.world_size,)))
            method.frozen_texts = False  # every process makes the same passes, whatever it has seen
        method.to(self.device).eval()

    def fit(
        self,
        method: Method,
        session: Session,
        phase: Phase,
        number: int,
        training: Training,
        watcher: Watcher,
        resume: PhaseState | None = None,
    ) -> None:
        """Optimises phase `number` of a session with a fresh Trainer, from where `resume` left it.

        Raises:
            MemoryFullError: the device's memory does not hold a step.
        """
        budget = training.budget(session)
        length = training.length(session, phase)
        steps, batch_size = length.steps, length.batch_size
        state = resume or PhaseState()
        if state.step >= steps:
            return
        key, view = (self._seed, session.index, number), training.view(method.backbone.image_size)
        samples, workers = session.train if phase.data is None else phase.data, self._num_workers
        if session.objective is None or not session.objective.patches:
            looks = looks_of(phase, length, len(samples), key, view, training.views, samples.drawn)
            samples, workers = self._instead(samples, method, looks, trained=True)
        watcher.start(steps - state.step, length.steps_per_epoch)
        method.train()
        method.backbone.divided = False
        where = f"session {session.index}, phase {phase.name}"
        name = f"session_{session.index:02d}_{phase.name}"
        while state.step < steps:
            parts, method.backbone.pieces = (1, self._parts) if _coupled(method, session) else (self._parts, 1)
            shares: dict[str, Any] = {
                "steps": steps, "start": state.step, "rank": self.rank, "world_size": self.world_size,
                "parts": parts, "views": training.views,
            }  # fmt: skip
            batches = SeededBatches(len(samples), batch_size, key, **shares, draws=phase.draws, view=view)
            auxiliary = None
            if phase.auxiliary is not None:
                beside = phase.auxiliary_batch_size or batch_size
                shown = view if phase.augment_auxiliary else None
                stream = SeededBatches(len(phase.auxiliary), beside, (*key, 1), **shares, view=shown)
                auxiliary = phase.auxiliary, stream
            loader = make_loader(samples, method.backbone.resize, batches, workers, auxiliary)
            module = PhaseModule(
                method,
                phase,
                where,
                training=training,
                batches=batches,
                schedule_length=steps if training.schedule.interval == "step" else length.epochs,
                parts=parts,
                watcher=watcher,
                resume=state,
            )
            try:
                self._run(module, loader, self._trainer(parts, budget.gradient_clip, _all_used(method, session), name))
                state = PhaseState(steps)
            except torch.OutOfMemoryError as error:
                state = self._more_parts(module, batch_size, error)
            except RuntimeError as error:
                if self._detect_anomaly and (found := re.search(r"Function '(\w+)' returned nan", str(error))):
                    raise NotFiniteError(
                        f"the gradient that {found[1]} gives is not finite in {where}; what it belongs to is told above"
                    ) from error
                raise
        if method.backbone.pieces > 1 and not method.backbone.divided:
            log.warning(
                "trainer.accumulate=%d divided nothing in %s, where the loss needs a whole batch and no gradient "
                "passes the backbone; a smaller train.batch_size saves memory", self._parts, where,
            )  # fmt: skip
        method.backbone.pieces = 1
        method.eval()

    def _run(self, module: PhaseModule, loader: Any, trainer: L.Trainer) -> None:
        with warnings.catch_warnings():
            # Lightning 2.6 with torch 2.15 warns about its own code.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            # Intended: small pictures need no workers, and a frozen tower stays in evaluation mode.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=r".*module\(s\) in eval mode.*")
            trainer.fit(module, loader)

    def _more_parts(self, module: PhaseModule, batch_size: int, error: Exception) -> PhaseState:
        """Doubles the parts after a step that did not fit; where to go on.

        Raises:
            MemoryFullError: not asked for, or of no use.
        """
        share = math.ceil(batch_size / self.world_size / self._parts)
        full = f"the memory of {self.device} does not hold a step on {share} pictures at once"
        if module.moving or share == 1 or self.world_size > 1 or not self._auto_batch:
            raise MemoryFullError(
                f"{full}; trainer.accumulate={2 * self._parts} (or trainer.auto_batch=true on one device) computes the "
                "same step on fewer at a time, train.batch_size=... makes the step smaller"
            ) from error
        self._parts *= 2
        log.warning("%s; going on with %d parts per step, the step stays the same", full, self._parts)
        state = module.state()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return state

    def _trainer(self, parts: int, gradient_clip: float | None, all_used: bool, name: str) -> L.Trainer:
        settings = dict(self._settings)
        if self.world_size > 1:  # all processes have loaded the same weights
            settings["strategy"] = DDPStrategy(find_unused_parameters=not all_used, init_sync=False)
        return L.Trainer(
            **settings,
            max_epochs=1,
            accumulate_grad_batches=parts,
            gradient_clip_val=gradient_clip,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            detect_anomaly=self._detect_anomaly,
            profiler=make_profiler(self._profiler, self.profiles, name),
        )

    def batches(
        self, samples: Samples, method: Method, shown: Draw | None = None, *, by_features: bool = False
    ) -> Iterable[Batch]:
        """This process's share of all samples, in order, on the device and normalised; as many batches everywhere.

        Args:
            samples: to be read.
            method: that they are for.
            shown: what is random about them.
            by_features: whether features may stand for pictures, see `Passes.samples`.
        """
        workers = self._num_workers
        if by_features and shown is None:
            samples, workers = self._instead(samples, method, [None])
        sampler = OrderedBatches(len(samples), self._eval_batch_size, self.rank, self.world_size, shown)
        for batch in make_loader(samples, method.backbone.resize, sampler, workers):
            yield batch.to(self.device).with_images(method.backbone.normalize)

    def _instead(
        self, samples: Samples, method: Method, looks: Sequence[Draw | None], *, trained: bool = False
    ) -> tuple[Samples, int]:
        """Features or tokens for pictures where that is right, and how many loader processes the samples need."""
        encoded = self._features.instead(samples, method, looks)
        if trained and encoded is samples:
            encoded = self._features.tokens_instead(samples, method, looks)
        return encoded, self._num_workers if encoded is samples else 0

    def inference(self) -> Any:
        """Context of a forward pass in the run's precision."""
        return self._fabric.autocast()

    def extractor(self, method: Method, session: int = 0, view: View | None = None) -> Extract:
        """The feature pass handed to a method's hooks in a session, where training sees pictures in a view."""

        def extract(
            samples: Samples, encode: Encode, *, as_trained: bool = False, number: int = 0
        ) -> tuple[Tensor, Tensor]:
            differs = as_trained and (view is not None or samples.drawn)
            shown = Draw((self._seed, session, number), view=view) if differs else None
            passes = EnginePasses(self, method, shown)
            features = passes.samples(samples, lambda batch: encode(batch.images), by_features=True)
            return features, torch.from_numpy(samples.labels).to(features.device)

        return extract

    def passes(self, method: Method) -> Passes:
        """Passes of a method over samples and texts."""
        return EnginePasses(self, method)

    @property
    def eval_batch_size(self) -> int:
        """Samples per forward pass without gradients."""
        return self._eval_batch_size

    def gather(self, rows: Tensor) -> Tensor:
        """The rows (N_r, ...) of all processes one after the other, on every process; shares may differ in length."""
        if self.world_size == 1:
            return rows
        sizes = torch.as_tensor(self._fabric.all_gather(torch.tensor(len(rows), device=self.device))).tolist()
        padded = torch.cat([rows, rows.new_zeros(max(sizes) - len(rows), *rows.shape[1:])])
        shares = self._fabric.all_gather(padded)
        return torch.cat([share[:size] for share, size in zip(shares, sizes, strict=True)])

    def require_equal(self, what: str, value: str) -> None:
        """Compares a hex digest over all processes.

        Raises:
            ConfigError: on all processes, if they differ.
        """
        if self.world_size > 1:
            own = torch.tensor([int(value[:12], 16)], device=self.device)
            if len(torch.as_tensor(self._fabric.all_gather(own)).unique()) > 1:
                raise ConfigError(f"the processes do not have the same {what}; do all see the same files?")

    def barrier(self) -> None:
        """Waits for all processes."""
        self._fabric.barrier()

    def close(self) -> None:
        """Ends the processes that this one has started; of use when it stops early."""
        for process in getattr(self._fabric.strategy.launcher, "procs", []):
            process.terminate()


def _has_gpu() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def _objective(method: Method, session: Session) -> Objective | None:
    """What says how a session's samples are learnt, where that is not the method itself."""
    return session.objective if method.any_objective else None


def _coupled(method: Method, session: Session) -> bool:
    """Whether a loss must see a whole batch."""
    objective = _objective(method, session)
    return method.couples_batch or (objective is not None and objective.couples_batch)


def _all_used(method: Method, session: Session) -> bool:
    """Whether every trained parameter gets a gradient in every step."""
    objective = _objective(method, session)
    return method.all_parameters_used and (objective is None or objective.all_parameters_used)
