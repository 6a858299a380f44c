from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.data.images import ArrayImages
from everclip.errors import ConfigError
from everclip.losses.distillation import distillation
from everclip.methods.base import Extract
from everclip.methods.finetune import Finetune
from everclip.methods.icarl import Icarl
from everclip.types import ClassSet, Samples, Session
from tests.methods.test_cpe_clip import EVERY, Tiny, make_batch, make_session, no_extract

# 60 pictures, 12 of each of 5 classes; the first byte of a picture is its number.
PIXELS = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None, None, None], (60, 32, 32, 3))
PICTURES = ArrayImages(PIXELS, np.arange(60) // 12, "numbers")
FEATURES = torch.from_numpy(np.random.RandomState(0).standard_normal((60, 8)))
GROUPS = ([0, 1], [2], [3, 4])


def make_extract(method: Icarl, index: int) -> Extract:
    """Features by number, other ones in every session."""
    features = FEATURES @ torch.from_numpy(np.random.RandomState(10 + index).standard_normal((8, 8)))

    def extract(images: Samples, encode: object) -> tuple[Tensor, Tensor]:
        numbers = images.read(range(len(images)), method.backbone.resize).images[:, 0, 0, 0].long()
        return features[numbers], torch.from_numpy(images.labels)

    return extract


def sessions(method: Icarl, limit: int = 12) -> list[Session]:
    """Runs the hooks of all sessions without training, on the first `limit` pictures of every class."""
    done, offset = list[Session](), 0
    everything = PICTURES.subset(np.flatnonzero(np.arange(60) % 12 < limit))
    for index, group in enumerate(GROUPS):
        new, seen = EVERY.select(group), EVERY.select(range(group[-1] + 1))
        train = everything.subset(everything.indices_of(new))
        memory = everything.subset(method.kept().tolist()) if index else None
        session = Session(index, f"s{index}", new, seen, train, memory, offset)
        method.begin_session(session, no_extract)
        method.end_session(session, make_extract(method, index))
        offset += len(train)
        done.append(replace(session, memory=everything.subset(method.kept().tolist())))
    return done


def move(method: Icarl) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (p for p in method.parameters() if p.requires_grad):
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)


def test_exemplars_and_means_are_the_official_ones(tiny: Tiny, golden: Callable[[str], Any]) -> None:
    method = Icarl(tiny(), memory_size=20)
    end, found = method.end_session, list[dict[str, Any]]()

    def end_session(session: Session, extract: Extract) -> None:
        end(session, extract)
        found.append({"kept": method.kept().tolist(), "means": method.means.of(session.seen)})

    method.end_session = end_session  # type: ignore[method-assign]  # watched, on this instance
    sessions(method)
    assert len(method.means.ids) == 5
    official = golden("exemplars_official")["sessions"]
    assert [one["kept"] for one in found] == [one["kept"] for one in official]
    for ours, theirs in zip(found, official, strict=True):
        torch.testing.assert_close(ours["means"], torch.tensor(theirs["means"]).double(), rtol=0, atol=2e-6)


def test_distillation_is_the_official_one(golden: Callable[[str], Any]) -> None:
    student, teacher = (
        5 * torch.from_numpy(np.random.RandomState(s).standard_normal((6, n))) for s, n in ((1, 5), (2, 3))
    )
    ours = distillation(student[:, :3], teacher, 2.0) / 4
    assert float(ours) == pytest.approx(golden("exemplars_official")["distillation"])


def test_the_teacher_is_the_model_at_the_end_of_the_session_before(tiny: Tiny) -> None:
    method, batch = Icarl(tiny(), distillation_weight=3.0, temperature=4.0, classify_by="text"), make_batch([0, 4])
    move(method)
    with torch.no_grad():
        teacher = method.logits(batch.images, EVERY.select([0, 1, 2]))
    method.begin_session(make_session(1), no_extract)
    move(method)
    with torch.no_grad():
        student = method.logits(batch.images, EVERY)
        losses = method.loss(batch)
    torch.testing.assert_close(losses["distillation"], 3 / 16 * distillation(student[:, :3], teacher, 4.0))
    log_p = student.log_softmax(1)
    torch.testing.assert_close(losses["cross_entropy"], -(log_p[0, 0] + log_p[1, 4]) / 2)


def test_it_pulls_nowhere_while_the_student_is_the_teacher(tiny: Tiny) -> None:
    method = Icarl(tiny())
    method.begin_session(make_session(1), no_extract)
    method.loss(make_batch([3, 4]))["distillation"].backward()
    gradients = [p.grad.abs().max() for p in method.parameters() if p.grad is not None]
    assert float(torch.stack(gradients).max()) < 1e-4


def test_the_base_session_is_fine_tuning(tiny: Tiny) -> None:
    method, plain, batch = Icarl(tiny()), Finetune(tiny()), make_batch([0, 1, 2])
    for one in (method, plain):
        one.begin_session(make_session(0), no_extract)
    losses = method.loss(batch)
    assert list(losses) == ["cross_entropy"]
    torch.testing.assert_close(losses, plain.loss(batch))


def test_training_is_on_the_session_and_the_kept_pictures(tiny: Tiny) -> None:
    method = Icarl(tiny(), memory_size=20, session_lr={"s2": 5e-5})
    last = sessions(method)[-1]
    (phase,) = method.phases(last)
    assert phase.lr == 5e-5
    assert phase.data is not None
    assert np.bincount(phase.data.labels).tolist() == [4, 4, 4, 16, 16]


@pytest.mark.parametrize(
    ("options", "limit", "counts"),
    [
        pytest.param({"per_class": 3}, 12, [[3, 3], [3] * 3, [3] * 5], id="per_class"),
        pytest.param({"memory_size": 20}, 12, [[10, 10], [6] * 3, [4] * 5], id="total"),
        pytest.param({"memory_size": 20, "selection": "random"}, 12, [[10, 10], [6] * 3, [4] * 5], id="random"),
        pytest.param({"memory_size": 20}, 5, [[5, 5], [5] * 3, [4] * 5], id="few"),
    ],
)
def test_how_many_are_kept(tiny: Tiny, options: dict[str, Any], limit: int, counts: list[list[int]]) -> None:
    done = sessions(Icarl(tiny(), **options), limit)
    memories = [session.memory.labels for session in done if session.memory is not None]
    assert [np.bincount(labels).tolist() for labels in memories] == counts


def test_a_random_choice_is_made_when_the_session_begins(tiny: Tiny) -> None:
    method, kept = Icarl(tiny(), per_class=2, selection="random"), list[list[int]]()
    for later in (1, 2):  # as after a stop: what is drawn in between differs
        method.numbers = method.numbers[:0]
        session = Session(0, "s0", EVERY.select([0, 1]), EVERY.select([0, 1]), PICTURES.subset(range(24)))
        torch.manual_seed(0)
        method.begin_session(session, no_extract)
        torch.manual_seed(later)
        method.end_session(session, make_extract(method, 0))
        kept.append(method.kept().tolist())
    assert kept[0] == kept[1]
    torch.manual_seed(3)
    method.begin_session(session, no_extract)
    method.end_session(session, make_extract(method, 0))
    assert method.kept().tolist() != kept[0]


def test_a_picture_belongs_to_the_nearest_mean(tiny: Tiny) -> None:
    method, batch = Icarl(tiny()), make_batch([0] * 4)
    with torch.no_grad():
        features = method.encode_image(batch.images)
        method.means.replace(EVERY.select([2, 0, 4, 1]), features)
        logits = method.logits(batch.images, EVERY.select([0, 1, 2, 4]))
    assert logits.argmax(1).tolist() == [2, 0, 3, 1]
    torch.testing.assert_close(logits.amax(1), method.backbone.logit_scale.expand(4))
    assert not method.open_vocabulary


def test_a_memory_too_small_is_refused_before_training(tiny: Tiny) -> None:
    method = Icarl(tiny(), memory_size=4)
    method.begin_session(make_session(0), no_extract)
    with pytest.raises(ConfigError, match="does not hold one picture of each of 5 classes"):
        method.begin_session(make_session(1), no_extract)


def test_all_of_vit_b16_but_the_temperature_is_trained() -> None:
    backbone = OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False)
    assert Icarl(backbone).num_trainable() == 149_620_736


def test_a_class_unknown_to_the_means_is_named(tiny: Tiny) -> None:
    method = Icarl(tiny(), memory_size=20)
    sessions(method)
    with pytest.raises(ValueError, match="no row for the classes yellow"):
        method.means.of(ClassSet((9,), ("yellow",)))
