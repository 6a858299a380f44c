from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from everclip.backbones.open_clip import OpenClip
from everclip.errors import ConfigError
from everclip.methods.zero_shot import ZeroShot
from everclip.modules.fine_tuning import texts_of
from everclip.types import Batch, ClassSet

SHAPES = ClassSet((0, 1), ("red star", "blue ring"), ("a photo of a {}.",))
FOOD = ClassSet((7, 5), ("green heart", "pink cross"), ("{} food.", "a {}."))


def test_a_union_keeps_each_classes_templates_and_order() -> None:
    union = ClassSet.union([SHAPES, FOOD])
    assert union.ids == (0, 1, 7, 5)
    assert union.own_templates == (SHAPES.templates, SHAPES.templates, FOOD.templates, FOOD.templates)
    assert union.select([2, 3]) == FOOD
    assert [(at, group.ids) for at, group in union.select([3, 0, 2]).by_templates()] == [([0, 2], (5, 7)), ([1], (0,))]


def test_a_union_of_equal_templates_is_a_plain_set() -> None:
    other = ClassSet((3,), ("gray circle",), SHAPES.templates)
    assert ClassSet.union([SHAPES, other]) == ClassSet((0, 1, 3), (*SHAPES.names, "gray circle"), SHAPES.templates)


def test_classes_are_found_by_name_and_others_get_ids_of_their_own() -> None:
    asked = ClassSet((0, 1, 2, 3), ("pink cross", "okapi", "red star", "zebra"), ("{}!",))
    assert ClassSet.union([SHAPES, FOOD]).adopt(asked) == replace(asked, ids=(5, 8, 0, 9))
    assert ClassSet((), ()).adopt(asked) == asked


def test_of_classes_of_one_name_the_templates_decide() -> None:
    stars = ClassSet.union([ClassSet((4,), ("star",), ("a {}.",)), ClassSet((9,), ("star",), ("{} food.",))])
    assert stars.adopt(ClassSet((0,), ("star",), ("{} food.",))).ids == (9,)
    assert stars.adopt(ClassSet((0, 1, 2), ("star",) * 3, ("{}!",))).ids == (4, 9, 10)


def test_named_classes_keep_their_templates() -> None:
    both = ClassSet.union([SHAPES, FOOD])
    named = both.named(["green heart", "okapi", "blue ring"])
    assert (named.ids, named.names) == ((7, 8, 1), ("green heart", "okapi", "blue ring"))
    assert named.own_templates == (FOOD.templates, SHAPES.templates, SHAPES.templates)
    assert both.named(both.names) == both


def test_labelled_pictures_have_the_first_prompts_of_their_classes_as_texts() -> None:
    both = ClassSet.union([SHAPES, FOOD])
    batch = Batch(torch.zeros(3, 1), torch.tensor([5, 0, 5]), torch.arange(3))
    assert texts_of(batch, both) == ("pink cross food.", "a photo of a red star.", "pink cross food.")
    assert texts_of(replace(batch, texts=("x", "y", "z")), both) == ("x", "y", "z")


def test_a_template_of_one_class_must_hold_the_name_once() -> None:
    with pytest.raises(ConfigError, match=r"'nothing' must contain \{\} exactly once"):
        ClassSet((0, 1), ("a", "b"), ("{}",), (("{}",), ("nothing",)))


def test_text_features_of_a_union_are_those_of_its_parts(tiny: Callable[[], OpenClip]) -> None:
    method = ZeroShot(tiny())
    order = [3, 0, 2, 1]
    with torch.no_grad():
        parts = torch.cat([method.class_features(SHAPES), method.class_features(FOOD)])
        union = method.class_features(ClassSet.union([SHAPES, FOOD]).select(order))
    torch.testing.assert_close(union, parts[order])


def test_a_batch_changes_its_auxiliary_pictures_too() -> None:
    inner = Batch(torch.ones(1, 3, 2, 2), torch.tensor([4]), torch.tensor([0]))
    batch = Batch(torch.zeros(2, 3, 2, 2), torch.tensor([1, 2]), torch.tensor([5, 6]), inner).with_images(
        lambda x: x + 1
    )
    assert batch.auxiliary is not None
    assert (batch.images.unique().item(), batch.auxiliary.images.unique().item()) == (1, 2)
    assert batch.auxiliary.to(torch.device("meta")).labels.is_meta
