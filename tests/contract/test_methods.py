"""What holds for every method: one test per promise, over all files in conf/method."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hydra.utils import get_object
from omegaconf import DictConfig, open_dict
from torch import Tensor

from everclip.commands import assembly
from everclip.config.catalogue import read_option
from everclip.config.compatibility import NEUTRAL
from everclip.data.images import ConcatSamples
from everclip.errors import Preempted
from everclip.methods.base import Method, prepared
from everclip.runs.folder import RunFolder
from everclip.training.checkpoint import Adapted, load_session, restore
from everclip.training.engine import Engine
from everclip.training.monitor import Monitor
from everclip.training.phases import Budget
from everclip.training.runner import Runner
from everclip.types import Session, TaskSequence
from tests.conftest import METHODS, SMALL

Parts = tuple[TaskSequence, Method, Engine, DictConfig]


@pytest.fixture(params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def parts(name: str, compose: Callable[..., DictConfig], engine: Engine) -> Parts:
    composed = compose(*SMALL, f"method={name}")
    with open_dict(composed):
        del composed["hydra"]
    sequence, _, method = assembly.make_parts(composed, load=True)
    return sequence, method, engine, composed


class Unwatched:
    """Lets a phase run unseen."""

    stop = False

    def start(self, steps: int, steps_per_epoch: int) -> None:
        pass

    def ready(self) -> None:
        pass

    def after_step(self, losses: dict[str, float], lr: float, state: Any, stop: bool) -> None:
        pass


def train_session(parts: Parts, index: int, steps: int | None = None) -> Session:
    """Runs the hooks and phases of one session as the runner does."""
    sequence, method, engine, composed = parts
    session = sequence.sessions[index]
    if method.sees == "all":
        earlier = sequence.sessions[: index + 1]
        session = replace(session, train=ConcatSamples([past.train for past in earlier]))
    earlier = sequence.sessions[:index]
    if len(method.kept()):
        memory = ConcatSamples([past.train for past in earlier]).subset(method.kept().tolist())
        session = replace(session, memory=memory)
    session = replace(session, offset=sum(len(past.train) for past in earlier))
    budget = Budget(epochs=1, batch_size=8, max_steps=steps)
    training = replace(assembly.make_training(composed), base=budget, later=budget)
    extract = engine.extractor(method)
    method.begin_session(session, extract)
    for number, phase in enumerate(method.phases(session)):
        engine.fit(method, session, prepared(phase, extract), number, training, Unwatched())
    method.end_session(session, extract)
    return session


def some_images(parts: Parts) -> Tensor:
    sequence, method, _, _ = parts
    task = sequence.tasks[0].samples
    return method.backbone.normalize(task.read(list(range(0, 24, 2)), method.backbone.resize).images)


def test_config_keys_are_the_constructors_keywords(name: str) -> None:
    node = read_option("method", name)
    parameters = inspect.signature(get_object(node["_target_"])).parameters
    keywords = {key for key, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert set(node) - {"_target_", NEUTRAL} == keywords
    assert set(parameters) - keywords == {"backbone"}


def test_frozen_weights_stay_as_they_are(parts: Parts) -> None:
    method = parts[1]
    frozen = {n: p.clone() for n, p in method.backbone.named_parameters() if not p.requires_grad}
    train_session(parts, 0, steps=1)
    after = dict(method.backbone.named_parameters())
    assert [n for n, p in frozen.items() if not torch.equal(p, after[n])] == []


def test_every_trainable_parameter_gets_a_gradient(parts: Parts) -> None:
    sequence, method, _, _ = parts
    without: list[str] = []
    seen = []

    def before_step() -> None:
        seen.append(1)
        without.extend(n for n, p in method.named_parameters() if p.requires_grad and p.grad is None)

    method.before_step = before_step  # type: ignore[method-assign]  # watched, on this instance
    train_session(parts, 0, steps=1)
    if not seen:
        assert method.phases(sequence.sessions[0]) == ()
    elif method.all_parameters_used:
        assert without == []


def test_steps_change_what_is_trained(parts: Parts) -> None:
    sequence, method, _, _ = parts
    before: dict[str, Tensor] = {}
    original = method.before_step

    def before_step() -> None:
        if not before:
            before.update({n: p.detach().clone() for n, p in method.named_parameters() if p.requires_grad})
        original()

    method.before_step = before_step  # type: ignore[method-assign]  # watched, on this instance
    train_session(parts, 0, steps=2)
    after = dict(method.named_parameters())
    assert bool(before) == bool(method.phases(sequence.sessions[0]))
    assert [n for n, p in before.items() if torch.equal(p, after[n])] == []


def test_logit_columns_follow_the_order_of_classes(parts: Parts) -> None:
    session = train_session(parts, 0, steps=2)
    method, images = parts[1], some_images(parts)
    order = [3, 0, 5, 1, 4, 2]
    with torch.no_grad():
        logits = method.logits(images, session.seen)
        permuted = method.logits(images, session.seen.select(order))
    assert logits.shape == (len(images), len(session.seen))
    torch.testing.assert_close(permuted, logits[:, order])


def test_predictions_depend_on_no_other_picture(parts: Parts) -> None:
    session = train_session(parts, 0, steps=2)
    method, images = parts[1], some_images(parts)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        classify = method.classifier(session.seen)
        whole = classify(images)
        one_by_one = torch.cat([classify(image[None]) for image in images])
        shuffled = torch.empty_like(whole)
        shuffled[order] = classify(images[order])
    torch.testing.assert_close(one_by_one, whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shuffled, whole, rtol=1e-4, atol=1e-4)
    assert torch.equal(one_by_one.argmax(1), whole.argmax(1))
    assert torch.equal(shuffled.argmax(1), whole.argmax(1))


def test_a_restored_method_gives_equal_logits(parts: Parts, compose: Callable[..., DictConfig], name: str) -> None:
    adapted = Adapted(parts[1])
    train_session(parts, 0, steps=2)
    session = train_session(parts, 1, steps=2)
    composed = compose(*SMALL, f"method={name}", "seed=7")
    _, _, other = assembly.make_parts(composed, load=True)
    restore(other, adapted.tensors())
    images = some_images(parts)
    with torch.no_grad():
        assert torch.equal(other.logits(images, session.seen), parts[1].logits(images, session.seen))


def weights(folder: RunFolder, session: int) -> dict[str, Tensor]:
    return load_session(folder.checkpoint(session))[0]


def same_files(first: RunFolder, second: RunFolder, *names: str) -> bool:
    return all((first.path / name).read_bytes() == (second.path / name).read_bytes() for name in names)


def test_going_on_inside_a_session_equals_running_through(
    name: str, run: Callable[..., RunFolder], whole: Callable[[str], RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = whole(name)  # with the same seed: that alone must give the same result
    base, second = (record["train_steps"] for record in straight.read_sessions()[:2])
    if second:  # stop after the first of the steps of session 1
        monkeypatch.setattr(Monitor, "stop", property(lambda self: self.step == base))
    else:
        monkeypatch.setattr(Runner, "_train", stop_before_session_1)
    with pytest.raises(Preempted):
        run(f"method={name}")
    monkeypatch.undo()
    resumed = run(f"method={name}")
    assert [attempt["state"] for attempt in resumed.read_run()["attempts"]] == ["preempted", "finished"]
    assert same_files(straight, resumed, "accuracy_matrix.csv", "counts.csv")
    assert [r["losses"] for r in straight.read_sessions()] == [r["losses"] for r in resumed.read_sessions()]
    first, again = weights(straight, 2), weights(resumed, 2)
    assert first.keys() == again.keys()
    assert [n for n in first if not torch.equal(first[n], again[n])] == []


def stop_before_session_1(self: Runner, session: Session, progress: Any, train: Any = Runner._train) -> Any:
    if session.index == 1:
        raise Preempted("SIGTERM")
    return train(self, session, progress)
