"""What holds for every method: one test per promise, over all files in conf/method, on one run of two sessions each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from hydra.utils import get_object
from omegaconf import OmegaConf
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

import everclip
from everclip.backbones.open_clip import OpenClip
from everclip.config.build import build
from everclip.config.catalogue import read_option
from everclip.config.compatibility import NEUTRAL
from everclip.errors import ConfigError, Preempted
from everclip.methods.base import Method
from everclip.runs.folder import RunFolder
from everclip.training.checkpoint import load_session
from everclip.training.monitor import Monitor
from everclip.training.runner import Runner
from everclip.types import Batch, ClassSet, Session
from tests.conftest import METHODS, OWN
from tests.trained import WORDS, Trained

ORDER = [3, 0, 7, 5, 1, 4, 2, 6]  # of the eight classes seen


@pytest.mark.parametrize("name", METHODS)
def test_config_keys_are_the_constructors_keywords(name: str) -> None:
    node = read_option("method", name, own=OWN)
    parameters = inspect.signature(get_object(node["_target_"])).parameters
    keywords = {key for key, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert set(node) - {"_target_", NEUTRAL} == keywords
    assert set(parameters) - keywords == {"backbone"}


def test_a_run_enters_what_depends_on_repeated_pictures(trained: Trained) -> None:
    assert [session.recurs for session in trained.watched.sessions] == [True, True]


def test_frozen_weights_stay_as_they_are(trained: Trained) -> None:
    assert trained.watched.frozen == set()


def test_every_trainable_parameter_gets_a_gradient(trained: Trained) -> None:
    if trained.method.all_parameters_used:
        assert trained.watched.without_gradient == set()


def test_steps_change_what_is_trained(trained: Trained) -> None:
    watched = trained.watched
    assert [steps > 0 for steps in watched.steps] == [bool(trained.method.phases(s)) for s in watched.sessions]
    if trained.method.moving:
        assert watched.unmoved & steps_on_clips(trained) == set()
    else:
        assert watched.unmoved == set()


def steps_on_clips(trained: Trained) -> set[str]:
    """Names of parameters that three steps on clips of noise do not change either."""
    method = deepcopy(trained.method).train()
    weights = {name: p for name, p in method.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in weights.items()}
    clips = torch.randn(6, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([trained.watched.sessions[-1].classes.ids[i % 2] for i in range(6)])
    optimizer = torch.optim.SGD(weights.values(), lr=1.0)
    for _ in range(3):  # what stands before a zero moves after it has moved
        optimizer.zero_grad()
        torch.stack(list(method.loss(Batch(clips, labels, torch.arange(6))).values())).sum().backward()
        optimizer.step()
        method.after_step()
    return {name for name, p in weights.items() if p.equal(before[name])}


def seen_classes(trained: Trained) -> ClassSet:
    return trained.watched.sequence.sessions[-1].seen


def test_what_comes_with_a_session_is_counted_before(trained: Trained, tiny: Callable[[], OpenClip]) -> None:
    method = build("method", OmegaConf.load(trained.folder.path / "config.yaml").method, tiny())
    if method.num_trainable() == 0:  # all comes with the sessions; else parts may take turns
        counted = [record["trainable_parameters"] for record in trained.folder.read_sessions()]
        images = [len(session.train) for session in trained.watched.sequence.sessions]
        assert counted[0] == method.num_arriving([6], images[:1])
        assert counted[1] == counted[0] + method.num_arriving([6, 2], images)


def resized_images(trained: Trained) -> Tensor:
    samples = trained.watched.sequence.tasks[0].samples
    return samples.read(range(0, 24, 2), trained.method.backbone.resize).images


def test_what_a_checkpoint_holds_is_counted_before(trained: Trained, tiny: Callable[[], OpenClip]) -> None:
    method = build("method", OmegaConf.load(trained.folder.path / "config.yaml").method, tiny())
    sessions = trained.watched.sequence.sessions
    held = sum(tensor.nbytes for tensor in weights(trained.folder).values())
    counted = method.kept_bytes([6, 2], sum(len(session.train) for session in sessions))
    assert counted == pytest.approx(held, rel=0.05, abs=50_000), "what grows says so: everclip.methods.base.Growing"


def some_images(trained: Trained) -> Tensor:
    return trained.method.backbone.normalize(resized_images(trained))


def test_logit_columns_follow_the_order_of_classes(trained: Trained) -> None:
    images, seen = some_images(trained), seen_classes(trained)
    with torch.no_grad():
        logits = trained.method.logits(images, seen)
        permuted = trained.method.logits(images, seen.select(ORDER))
    assert logits.shape == (len(images), len(seen)) == (12, 8)
    torch.testing.assert_close(permuted, logits[:, ORDER])


def test_a_share_without_pictures_has_no_logits(trained: Trained) -> None:
    images, seen = some_images(trained)[:0], seen_classes(trained)  # as the last batch of some processes
    with torch.no_grad():
        assert trained.method.logits(images, seen).shape == (0, len(seen))


def test_predictions_depend_on_no_other_picture(trained: Trained) -> None:
    images = some_images(trained)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        classify = trained.method.classifier(seen_classes(trained))
        whole = classify(images)
        one_by_one = torch.cat([classify(image[None]) for image in images])
        shuffled = torch.empty_like(whole)
        shuffled[order] = classify(images[order])
    torch.testing.assert_close(one_by_one, whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shuffled, whole, rtol=1e-4, atol=1e-4)
    assert torch.equal(one_by_one.argmax(1), whole.argmax(1))
    assert torch.equal(shuffled.argmax(1), whole.argmax(1))


def test_features_stand_for_pictures_that_nothing_changes(trained: Trained) -> None:
    if not trained.method.frozen_images:
        return
    images, seen = some_images(trained), seen_classes(trained)
    with torch.no_grad():
        features = trained.method.backbone.encode_image(images, normalize=False, project=False)
        assert torch.equal(trained.method.encode_image(features), trained.method.encode_image(images))
        assert torch.equal(trained.method.logits(features, seen), trained.method.logits(images, seen))


def test_texts_that_nothing_changes_pass_once(trained: Trained, tiny: Callable[[], OpenClip]) -> None:
    if not trained.method.frozen_texts:
        return
    texts = [f"a photo of {number} things" for number in range(40)]
    with torch.no_grad():
        features = trained.method.encode_text(texts)
        assert torch.equal(trained.method.encode_text(texts), features)
        torch.testing.assert_close(features, Method(tiny()).encode_text(texts), rtol=1e-4, atol=1e-6)


def test_a_stored_run_answers_by_name(trained: Trained) -> None:
    torch.manual_seed(7)  # of what would be drawn anew if it were not stored
    package = type(trained.method).__module__.partition(".")[0]
    model = everclip.load(trained.folder.path, trust=[package])
    images, seen = some_images(trained), seen_classes(trained)
    pictures = [to_pil_image(image) for image in resized_images(trained)]
    names = [seen.names[position] for position in ORDER]
    with torch.no_grad():
        logits = trained.method.logits(images, seen)
        assert torch.equal(model.method.logits(images, seen), logits)
        torch.testing.assert_close(model.classify(pictures, names), logits[:, ORDER].softmax(dim=1))
        if not trained.method.open_vocabulary:
            with pytest.raises(ConfigError, match="scores trained classes only, not 'okapi'"):
                model.classify(pictures, ["okapi", *names])
            return
        more = ClassSet((*seen.ids, max(seen.ids) + 1), (*seen.names, "okapi"), seen.templates)
        wanted = trained.method.logits(images, more)[:, [len(seen), *ORDER]]
    torch.testing.assert_close(model.classify(pictures, ["okapi", *names]), wanted.softmax(dim=1))


def weights(folder: RunFolder) -> dict[str, Tensor]:
    """What the checkpoint of the last session holds."""
    return load_session(folder.checkpoint(1))[0]


def test_going_on_inside_a_session_equals_running_through(
    trained: Trained, run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*WORDS, f"method={trained.name}")  # with the same seed: that alone must give the same result
    base, second = trained.watched.steps
    if second:  # stop after the first of the steps of session 1
        monkeypatch.setattr(Monitor, "stop", property(lambda self: self.step == base))
    else:
        monkeypatch.setattr(Runner, "_train", stop_before_session_1)
    with pytest.raises(Preempted):
        run(*words)
    monkeypatch.undo()
    resumed, straight = run(*words), trained.folder
    assert [attempt["state"] for attempt in resumed.read_run()["attempts"]] == ["preempted", "finished"]
    for name in ("accuracy_matrix.csv", "counts.csv", "train.csv"):
        assert (straight.path / name).read_bytes() == (resumed.path / name).read_bytes(), name
    assert [r["losses"] for r in straight.read_sessions()] == [r["losses"] for r in resumed.read_sessions()]
    first, again = weights(straight), weights(resumed)
    assert first.keys() == again.keys()
    assert [n for n in first if not torch.equal(first[n], again[n])] == []


def stop_before_session_1(self: Runner, session: Session, progress: Any, train: Any = Runner._train) -> Any:
    if session.index == 1:
        raise Preempted("SIGTERM")
    return train(self, session, progress)
