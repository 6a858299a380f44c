"""ComCLIP: its parts and weights, the official code's scores, and what it tells apart that a whole picture does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.data.drawing import scenes
from everclip.data.images import ArrayImages
from everclip.data.pairs import CaptionedImages
from everclip.errors import DataError
from everclip.evaluation.comclip import ComClip, cut_out, parts_of, with_parts
from everclip.evaluation.rescoring import Features, rescore
from everclip.evaluation.retrieval import Retrieval
from everclip.methods.base import Method
from everclip.training.engine import Engine
from everclip.types import Batch, ClassSet, Described, Parse, Region, Relation, Samples, Task

LEFT, RIGHT = (0, 0, 0, 0), (1, 0, 1, 0)


def test_scores_are_those_of_the_official_code(
    tiny: Callable[[], OpenClip], engine: Engine, golden: Callable[[str], Any]
) -> None:
    drawn = scenes.draw_scenes(12, seed=0, split=1, style="cards")
    pictures = ArrayImages(drawn.pixels, np.full(12, -1), "")
    samples = CaptionedImages(pictures, scenes.captions(drawn), scenes.described(drawn))
    method = Method(tiny())
    passes = engine.passes(method)
    texts = passes.texts([text for own in samples.texts for text in own], method.encode_text)
    seen = passes.samples(samples, lambda batch: method.encode_image(batch.images))
    asked = golden("comclip_official")["pairs"]
    pairs = torch.tensor([[picture, 5 * scene + number] for scene, number, picture, _ in asked])
    owner = torch.arange(12).repeat_interleave(5)
    scores, facts = ComClip().score(method, samples, passes, Features(seen, texts, owner), pairs)
    torch.testing.assert_close(scores, torch.tensor([row[3] for row in asked], dtype=torch.double), atol=2e-6, rtol=0)
    assert facts == {"comclip": {"pairs": 10, "parsed": 10, "matched": 9}}


def test_weights_are_shares_of_what_matches() -> None:
    axes = torch.eye(4, dtype=torch.double)
    parts, words = torch.stack([axes[1], axes[2], axes[3]]), torch.stack([3 * axes[1], axes[2], -axes[3]])
    owner = torch.zeros(3, dtype=torch.long)
    expected = torch.tensor([[1, 0.75, 0.25, 0]], dtype=torch.double)
    assert torch.equal(with_parts(axes[:1], parts, words, owner), expected)
    order = [2, 0, 1]
    assert torch.equal(with_parts(axes[:1], parts[order], words[order], owner), expected)
    # Whole pictures as parts, parts that match nothing, and no parts change no direction.
    for count, scale in ((2, 1.0), (2, -1.0), (0, 1.0)):
        whole = F.normalize(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), dim=-1)
        mixed = with_parts(whole, whole.expand(count, 4), scale * whole.expand(count, 4), owner[:count])
        torch.testing.assert_close(F.normalize(mixed, dim=-1), whole)


def test_what_is_cut_out_stays_as_it_is_and_all_else_is_black() -> None:
    pixels = np.random.default_rng(0).integers(1, 256, (6, 8, 3), dtype=np.uint8)
    cut = np.asarray(cut_out(Image.fromarray(pixels), frozenset({(0, 0, 1, 2), (4, 1, 7, 5)})))
    inside = np.zeros((6, 8), bool)
    inside[0:3, 0:2] = inside[1:6, 4:8] = True
    assert np.array_equal(cut, pixels * inside[..., None])


def test_an_entity_means_the_regions_that_have_its_noun() -> None:
    regions = (Region("a red circle", LEFT), Region("the small Circle", RIGHT), Region("a square", RIGHT))
    parse = Parse(
        {"circle": "red circle", "big square": "big square", "dog": "dog"},
        (
            Relation("circle", "beside", "big square"),
            Relation("circle", "sees", "dog"),
            Relation(None, "sleeps", "dog"),
        ),
    )
    both = frozenset({LEFT, RIGHT})
    assert list(parts_of(parse, regions)) == [
        ("red circle", both), ("big square", frozenset({RIGHT})), ("dog", None),
        ("beside", both), ("sees", None), ("sleeps", None),
    ]  # fmt: skip
    assert list(parts_of(None, regions)) == []


class Binding:
    """A model that knows single things by name, but of several things only that they are several."""

    names = ("red circle", "blue square", "blue circle", "red square")

    def __init__(self) -> None:
        self.backbone: Any = SimpleNamespace(resize=None)

    def encode_image(self, images: Tensor) -> Tensor:
        things = F.one_hot(images[:, 0, 0].long(), 5)[..., 1:].sum(1).float()
        several = (things.sum(1, keepdim=True) > 1).float()
        return F.normalize(torch.cat([things * (1 - several), several], dim=1), dim=-1)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        things = torch.tensor([[float(name in text) for name in self.names] for text in texts])
        return F.normalize(torch.cat([things, (things.sum(1, keepdim=True) > 1).float()], dim=1), dim=-1)


class Whole:
    """Passes over everything at once."""

    def samples(self, samples: Samples, function: Callable[[Batch], Tensor], *, by_features: bool = False) -> Tensor:
        read = samples.read(range(len(samples)), lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1))
        return function(read)

    def texts(self, texts: Sequence[str], function: Callable[[Sequence[str]], Tensor]) -> Tensor:
        return function(texts)


def swapped(described: Described | None) -> Task:
    """Two pictures of a circle and a square, with each other's colours."""
    pixels = np.array([[[1, 2]], [[3, 4]]], np.uint8)[..., None].repeat(3, axis=-1)
    texts = [["a red circle and a blue square"], ["a blue circle and a red square"]]
    pictures = ArrayImages(pixels, np.full(2, -1), "")
    return Task("swapped", ClassSet((), ()), CaptionedImages(pictures, texts, described), Retrieval(ComClip()))


def test_colours_that_are_swapped_are_told_apart_by_parts() -> None:
    colours = (("red", "blue"), ("blue", "red"))
    named = [(f"{first} circle", f"{second} square") for first, second in colours]
    task = swapped(
        Described(
            tuple((Region(circle, LEFT), Region(square, RIGHT)) for circle, square in named),
            {
                f"a {c} and a {s}": Parse({"circle": c, "square": s}, (Relation("circle", "and", "square"),))
                for c, s in named
            },
        )
    )
    model, names = Binding(), ("i2t_r1", "t2i_r1")
    plain = Retrieval().evaluate(model, task, Whole(), ())
    assert [plain.scores[name].value for name in names] == [0, 0]  # ties count against the query
    found = task.evaluator.evaluate(model, task, Whole(), ())
    assert [found.scores[name].value for name in names] == [100, 100]
    assert found.facts == {"comclip": {"pairs": 4, "parsed": 4, "matched": 4}}


def test_a_task_without_annotations_is_refused_and_a_text_without_parse_counted() -> None:
    with pytest.raises(DataError, match="comclip needs to know what is where"):
        swapped(None).evaluator.evaluate(Binding(), swapped(None), Whole(), ())
    task = swapped(Described(((), ()), {}))
    found = task.evaluator.evaluate(Binding(), task, Whole(), ())
    assert found.facts == {"comclip": {"pairs": 4, "parsed": 0, "matched": 0}}
    assert found.scores == Retrieval().evaluate(Binding(), task, Whole(), ()).scores


def test_only_the_first_answers_are_ordered_anew() -> None:
    axes = torch.eye(3)
    texts = torch.tensor([[0.9, 0.5, 0.1], [0.8, 0.9, 0.0], [0.1, 0.2, 0.9]])  # most similar first: 0 1 2, 1 0 2, 2 1 0
    features = Features(F.normalize(texts, dim=-1), axes, torch.tensor([1, 0, 2]))

    class Fixed(ComClip):
        def score(
            self, model: Any, samples: Any, passes: Any, known: Any, pairs: Tensor
        ) -> tuple[Tensor, dict[str, Any]]:
            table = torch.tensor([[1.0, 2.0, 9.0], [3.0, 3.0, 9.0], [5.0, 6.0, 7.0]])
            assert sorted(map(tuple, pairs.tolist())) == sorted(set(map(tuple, pairs.tolist())))
            return table[pairs[:, 0], pairs[:, 1]], {}

    before = {"i2t": torch.tensor([1, 1, 0]), "t2i": torch.tensor([1, 1, 0])}
    scorer, model = Fixed(top_k=2), Binding()
    after, _ = rescore(scorer, model, swapped(None).samples, Whole(), features, before)
    assert after["i2t"].tolist() == [0, 1, 0]  # the second ties with a wrong one
    late, _ = rescore(
        scorer, model, swapped(None).samples, Whole(), features, {**before, "i2t": torch.tensor([2, 1, 0])}
    )
    assert late["i2t"].tolist() == [2, 1, 0]
