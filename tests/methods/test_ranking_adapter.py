"""The network follows the official code's; pairs share one softmax without a map of their own; groups are drawn.

tests/golden/ranking_adapter_official.json was made by running the official code outside the project; its first key says
how.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.data.images import FileImages
from everclip.data.loading import SeededBatches
from everclip.data.ordered import OrderedImages
from everclip.errors import ConfigError
from everclip.losses.ordering import pair_loss, value_loss
from everclip.methods.ranking_adapter import Groups, RankingAdapter
from everclip.modules.ranking import RankAttention, Ranker
from everclip.runs.folder import RunFolder
from everclip.runs.scores import table_of
from everclip.types import Batch, ClassSet, Session, SessionView
from tests.conftest import run_words
from tests.methods.given import Features, GivenFeatures
from tests.methods.test_cpe_clip import no_extract

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ranking_adapter_official.json").read_text())
PICTURES = np.arange(10)
CLASSES = ClassSet((3, 8), ("dog", "red star"))


def official() -> tuple[Ranker, Tensor, Tensor]:
    """The network, patches and text of the recipe."""
    ranker = Ranker(16, heads=8, num_layers=2, num_text_tokens=3, num_relations=3, dropout=0.1).double().eval()
    stream = np.random.RandomState(0)
    with torch.no_grad():
        for name, parameter in sorted(ranker.named_parameters()):
            shape = (3, 1) if name == "fusion.text_tokens" else tuple(parameter.shape)
            drawn = torch.from_numpy(0.3 * stream.standard_normal(shape))
            parameter.copy_(drawn + float("norm" in name and name.endswith("weight")))
    patches, text = (torch.from_numpy(stream.standard_normal(shape)) for shape in ((4, 5, 16), (6, 16)))
    return ranker, patches, text


def compare(ranker: Ranker, patches: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    fused, values = ranker.fusion(patches, text), torch.tensor([0.0, 1.0, 1.0, 3.0], dtype=torch.float64)
    scores, logits = ranker.scores(fused), ranker.comparisons(*ranker.relate.attend(fused))
    return scores, logits, pair_loss(logits, values) + 0.2 * value_loss(scores, values)


def close(obtained: Tensor, expected: object) -> None:
    torch.testing.assert_close(obtained, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)


def test_a_step_is_the_official_codes() -> None:
    ranker, patches, text = official()
    scores, logits, loss = compare(ranker, patches, text)
    close(scores, GOLDEN["scores"])
    close(logits, GOLDEN["logits"])
    close(loss, GOLDEN["loss"])
    loss.backward()
    trained = {name: p for name, p in ranker.named_parameters() if name != "fusion.text_tokens"}
    norms = {name: float(p.grad.norm()) for name, p in trained.items() if p.grad is not None}
    assert norms == pytest.approx(GOLDEN["gradient_norms"], abs=1e-9)
    vectors, others = ([p for p in trained.values() if (p.ndim < 2) is flat] for flat in (True, False))
    groups = [{"params": vectors, "weight_decay": 0.0}, {"params": others, "weight_decay": 0.01}]
    torch.optim.AdamW(groups, lr=1e-3).step()
    scores, logits, loss = compare(ranker, patches, text)
    close(scores, GOLDEN["after"]["scores"])
    close(logits, GOLDEN["after"]["logits"])
    close(loss, GOLDEN["after"]["loss"])


def test_text_tokens_of_one_number_are_lost_in_the_norm_behind_them() -> None:
    ranker, patches, text = official()
    before = compare(ranker, patches, text)[0]
    with torch.no_grad():
        ranker.fusion.text_tokens.mul_(-7)
    torch.testing.assert_close(compare(ranker, patches, text)[0], before)  # so ours are vectors
    with torch.no_grad():
        ranker.fusion.text_tokens[:, 0] += 1
    assert (compare(ranker, patches, text)[0] - before).abs().max() > 1e-3


def test_a_pair_shares_one_softmax_that_is_never_made() -> None:
    torch.manual_seed(0)
    attention, patches = RankAttention(8, 2, 3).double(), torch.randn(4, 5, 8, dtype=torch.float64)
    queries = attention._split(attention.norm_query(attention.query(attention.relations)))
    keys = attention._split(attention.norm_key_value(attention.key_value(patches)))
    expected = torch.zeros(4, 4, 8, dtype=torch.float64)
    for i in range(4):
        for j in range(4):
            both = (queries @ torch.cat([keys[i], keys[j]], dim=1).mT / 2).softmax(dim=-1)  # over 2P patches
            values = both[..., :5] @ keys[i] - both[..., 5:] @ keys[j]
            expected[i, j] = attention.output(values.transpose(0, 1).flatten(1)).sum(dim=0)
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        found = attention.difference(*attention.attend(patches))
    torch.testing.assert_close(found, expected)
    without_bias = found - 3 * attention.output.bias
    torch.testing.assert_close(without_bias, -without_bias.transpose(0, 1))
    assert max(saved) <= 4 * 5 * 8  # N x P x D and N x N x D, where maps of all pairs have N x N x H x M x 2P = 960


def test_groups_are_of_one_class_and_some_others() -> None:
    labels = np.array([7, 7, 7, 7, 7, 7, 2, 2, 2, 5])
    drawn = [Groups(3, labels, PICTURES, None, 0.25)(np.random.default_rng(seed), 4) for seed in range(60)]
    assert all(len(set(group.tolist())) == 4 for group in drawn)
    counts = {label: [(labels[g] == label).sum() for g in drawn if labels[g[0]] == label] for label in (7, 2, 5)}
    assert {label: set(found) for label, found in counts.items()} == {7: {3}, 2: {3}, 5: {1}}
    assert min(map(len, counts.values())) > 10  # each class alike, however many pictures it has
    weights = np.array([1e-9, 1, 1, 1, 1e-9, 1, 1, 1, 1, 1])
    heavy = [Groups(3, labels, PICTURES, weights, 0.0)(np.random.default_rng(seed), 4) for seed in range(30)]
    assert all(set(g.tolist()) == {1, 2, 3, 5} for g in heavy if labels[g[0]] == 7)
    others = [Groups(3, labels, PICTURES, None, 0.9)(np.random.default_rng(seed), 4) for seed in range(30)]
    assert all((labels[g] == labels[g[0]]).sum() == 1 for g in others if labels[g[0]] != 7)  # never without its own
    alone = Groups(1, np.zeros(5, np.int64), np.arange(5), None, 0.5)(np.random.default_rng(0), 5)
    assert sorted(alone.tolist()) == [0, 1, 2, 3, 4]  # nothing else to draw


def test_a_picture_of_two_classes_is_no_negative_of_either() -> None:
    labels, pictures = np.array([0, 0, 0, 1, 1, 1, 2]), np.array([10, 11, 12, 11, 12, 13, 14])
    groups = Groups(1, labels, pictures, None, 0.6)
    assert groups.largest() == 5  # of class 0: its three, 13 and 14
    drawn = [groups(np.random.default_rng(seed), 5) for seed in range(60)]
    assert set(labels[[group[0] for group in drawn]]) == {0, 1, 2}
    for group in drawn:
        negative = labels[group] != labels[group[0]]
        assert not set(pictures[group[negative]]) & set(pictures[labels == labels[group[0]]])
        assert negative.any()


def test_files_listed_twice_are_one_picture(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.jpg", "b.jpg", "a.jpg", "c.jpg")]
    listed = OrderedImages(FileImages(paths, np.array([0, 0, 1, 1]), tmp_path), np.arange(4.0))
    assert SessionView(listed, 0).shown().tolist() == [0, 1, 0, 2]
    assert listed.subset([3, 2, 0]).shown().tolist() == [0, 1, 1]


def adapter(backbone: OpenClip, **settings: float) -> RankingAdapter:
    torch.manual_seed(0)
    method = RankingAdapter(backbone, num_layers=1, num_relations=2, dropout=0.0, **settings)  # type: ignore[arg-type]
    labels = np.array([3, 3, 3, 8, 8])
    method.begin_session(Session(0, "s", CLASSES, CLASSES, Features(torch.zeros(5, 1), labels)), no_extract)
    return method


def test_the_first_picture_says_which_text_counts(tiny: Callable[[], OpenClip]) -> None:
    method = adapter(tiny(), rank_weight=2.0, regression_weight=0.5)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([8, 3, 8])
    scores = method.logits(images, CLASSES)
    assert (scores[:, 0] - scores[:, 1]).abs().min() > 1e-3  # texts make a difference
    for targets, values in ((None, [1.0, 0, 1]), ({"value": torch.tensor([4.0, 5, 6])}, [4.0, 0, 6])):
        losses = method.loss(Batch(images, labels, torch.arange(3), targets=targets))
        expected = 0.5 * value_loss(scores[:, 1], torch.tensor(values))
        torch.testing.assert_close(losses["regression"], expected)
    with torch.no_grad():
        method.ranker.compare[-1].weight.zero_()
        method.ranker.compare[-1].bias.zero_()
    losses = method.loss(Batch(images, labels, torch.arange(3)))
    torch.testing.assert_close(losses["rank"], 2 * torch.tensor(2.0).log())


def test_a_step_has_no_more_pictures_than_a_group_or_a_session(tiny: Callable[[], OpenClip]) -> None:
    for group_size, size, steps in ((2, 2, 3), (64, 5, 1)):
        method = adapter(tiny(), group_size=group_size)
        (phase,) = method.phases(
            Session(0, "s", CLASSES, CLASSES, Features(torch.zeros(5, 1), np.array([3, 3, 3, 8, 8])))
        )
        assert phase.draws is not None
        assert (phase.batch_size, phase.draws.steps) == (size, steps)
        batches = SeededBatches(5, size, (0,), steps=steps, draws=phase.draws)
        assert [len(batch) for batch in batches] == [size] * steps


def test_a_backbone_without_text_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="those of this backbone are hidden and 4"):
        RankingAdapter(GivenFeatures(torch.eye(4)))


@pytest.mark.slow
def test_numbers_of_circles_are_ordered_far_better_than_by_similarity(tmp_path: Path, cache_dir: Path) -> None:
    def first(method: str) -> float:
        words = ("sequence=shapes_ordering", "max_sessions=1", f"method={method}", "trainer=cpu", "logger=none")
        budget = ("train.batch_size=16", "train.epochs=4")  # groups of 16: a fifth of the method's own time
        folder: RunFolder = run_words(tmp_path / method / "run", cache_dir, *words, *budget)
        return float(table_of(folder.read_sessions()).matrix("srcc")[0, 0])

    assert first("ranking_adapter") > max(80, first("zero_shot") + 20)
