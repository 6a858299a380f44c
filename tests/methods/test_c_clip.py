from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.methods.c_clip import CClip
from everclip.modules.lora import fold
from tests.methods.pairs import pair_batch, pair_session
from tests.methods.small_clip import batches, small_clip
from tests.methods.test_cpe_clip import EVERY, Tiny, make_batch, make_session, no_extract
from tests.methods.test_mod_x import NOUNS


@torch.no_grad()
def draw(method: CClip, stream: np.random.RandomState) -> None:
    """The recorded run's random factors, module after module."""
    for update in method.updates:
        for down in update.down:
            down.copy_(torch.from_numpy(stream.uniform(-1, 1, down.shape) / math.sqrt(down.shape[1])))


def summary(values: Tensor) -> list[float]:
    flat = values.flatten()
    return [float(flat.norm()), float(flat @ torch.from_numpy(np.random.RandomState(3).standard_normal(len(flat))))]


def test_two_sessions_of_a_re_implementation(tmp_path: Path, golden: Callable[[str], Any]) -> None:
    recorded, stream = golden("c_clip_official"), np.random.RandomState(5)
    method = CClip(
        small_clip(tmp_path), rank=2, alpha=4.0, targets=("q", "v", "o", "fc", "proj"), projections=False,
        consolidation_weight=1.0, consolidation_rows="pairs", text_lr=1e-2,
    ).double()  # fmt: skip
    before = {name: value.clone() for name, value in small_clip(tmp_path).model.state_dict().items()}
    weights = np.random.RandomState(6)
    with torch.no_grad():
        for parameter in (*method.projector.first.parameters(), *method.projector.last.parameters()):
            parameter.copy_(torch.from_numpy(weights.standard_normal(parameter.shape) / 3))
    expected = iter(recorded["losses"])
    for index in range(2):
        method.begin_session(session := pair_session(index), no_extract)
        draw(method, stream)
        (phase,) = method.phases(session)
        rest, text = phase.parameters or ()
        groups = [{"params": rest.parameters}, {"params": text.parameters, "lr": text.lr}]  # type: ignore[union-attr]  # groups
        optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.2)
        for batch in batches(4)[:2]:
            texts = tuple(f"a photo of a {NOUNS[i]}." for i in batch.indices)
            losses = method.loss(replace(batch, texts=texts))
            assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(next(expected), rel=1e-9)
            optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
        method.end_session(session, no_extract)
    parts = (*method.projector.first.parameters(), method.projector.scale, method.projector.shift)
    trained = torch.cat([p.detach().flatten() for p in (*parts, *method.projector.last.parameters())])
    assert summary(trained) == pytest.approx(recorded["projector"], rel=1e-8)
    fold(method.backbone)
    for name, change in recorded["change"].items():
        moved = method.backbone.model.state_dict()[name] - before[name]
        assert summary(moved) == pytest.approx(change, rel=1e-6, abs=1e-9), name


def test_a_share_of_a_session_is_kept_and_the_next_begins_there(tiny: Tiny) -> None:
    method = CClip(tiny(), rank=2, merged_share=0.25)
    method.begin_session(pair_session(), no_extract)
    weight, update = method.backbone.model.visual.transformer.resblocks[0].mlp.c_fc, method.updates[1]
    start = weight.weight.detach().clone()
    with torch.no_grad():
        update.up.normal_()
    whole = weight.weight.detach() - start
    method.end_session(pair_session(), no_extract)
    torch.testing.assert_close(weight.weight - start, 0.25 * whole)
    method.begin_session(pair_session(1), no_extract)
    torch.testing.assert_close(weight.weight - start, 0.25 * whole)
    assert not update.up.any()
    images = make_batch([0, 1]).images
    torch.testing.assert_close(method.teacher.encode_image(images), method.encode_image(images))


@pytest.mark.parametrize("labels", [True, False], ids=["classes", "pairs"])
def test_every_picture_and_text_finds_itself_in_the_previous_model(tiny: Tiny, labels: bool) -> None:
    method = CClip(tiny(), consolidation_temperature=0.1)
    texts = ("a photo of a dog.", "a red star", "two boats")
    method.begin_session(make_session(1) if labels else pair_session(), no_extract)
    batch = make_batch([3, 4, 3]) if labels else pair_batch(texts)
    read = EVERY.select([3, 4]).prompts("a photo of a {}.") if labels else list(texts)
    backbone = method.backbone
    with torch.no_grad():
        found = method.loss(batch)["consolidation"]
        features = [backbone.encode_image(batch.images, normalize=False)]
        features.append(backbone.encode_text(backbone.tokenize(read), normalize=False))
        old, new = torch.cat(features), torch.cat([method.projector(rows) for rows in features])
    logits = F.normalize(new, dim=1) @ F.normalize(old, dim=1).T / 0.1
    torch.testing.assert_close(found, -(logits.log_softmax(0) + logits.log_softmax(1)).diagonal().mean())


def test_without_consolidation_it_is_lora_and_embeddings(tiny: Tiny) -> None:
    method, batch = CClip(tiny(), consolidation_weight=0.0), pair_batch(("a red star", "a bee"))
    method.begin_session(session := pair_session(), no_extract)
    assert session.objective is not None
    torch.testing.assert_close(method.loss(batch), session.objective.loss(method, batch, session.classes, 0.0))
    assert not any(p.requires_grad for p in method.projector.parameters())


def test_what_is_trained(tiny: Tiny) -> None:
    method = CClip(tiny(), embeddings=True, projections=False, text_lr=0.5)
    names = {n.removeprefix("backbone.model.") for n, p in method.named_parameters() if p.requires_grad}
    beside = {n for n in names if "parametrizations" not in n and not n.startswith("projector.")}
    assert beside == {
        "token_embedding.weight", "positional_embedding", "visual.positional_embedding", "visual.class_embedding",
    }  # fmt: skip
    (phase,) = method.phases(pair_session())
    rest, text = phase.parameters or ()
    assert (rest.lr, text.lr) == (None, 0.5)  # type: ignore[union-attr]  # groups
    counts = [sum(p.numel() for p in group.parameters) for group in (rest, text)]  # type: ignore[union-attr]  # groups
    assert sum(counts) == method.num_trainable()
    assert method.backbone.model.token_embedding.weight.numel() < counts[1] < counts[0] + counts[1]
    projections = {"text_projection", "visual.proj"}
    trained = CClip(tiny(), embeddings=False).backbone.model.named_parameters()
    assert {n for n, p in trained if p.requires_grad and "parametrizations" not in n} == projections


def test_embeddings_and_projections_that_a_backbone_lacks_are_refused(tiny: Tiny) -> None:
    backbone = tiny()
    backbone.model.visual.proj_of_another_name = backbone.model.visual.__dict__["_parameters"].pop("proj")
    with pytest.raises(ValueError, match=r"no weight of vision and text tower matches 'visual\\\\.proj'"):
        CClip(backbone)
    assert CClip(backbone, projections=False).updates
