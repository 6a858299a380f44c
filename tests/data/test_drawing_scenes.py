from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from everclip.data.drawing import scenes, shapes
from everclip.data.drawing.scenes import SceneObject, Scenes, captions, class_masks, described, draw_scenes, relation

NAMES = shapes.all_class_names()[:6]


@pytest.fixture(scope="module")
def drawn() -> Scenes:
    return draw_scenes(30, seed=0, split=1, style="cards")


def test_pictures_of_single_shapes_stay_what_they_were() -> None:
    styles = shapes.STYLES.values()
    drawn = [shapes.render(n, 2, seed=3, split=0, style=s) for n, s in zip(NAMES * 2, styles, strict=False)]
    assert [int(pictures[1, 17, 13, 1]) for pictures in drawn] == pytest.approx(
        [194, 174, 140, 79, 243, 56, 79, 220], abs=1
    )


def test_scenes_are_the_same_on_every_machine(drawn: Scenes) -> None:
    content = [[(thing.name, round(thing.x, 2), round(thing.y, 2)) for thing in pair] for pair in drawn.objects[:2]]
    assert content == [
        [("plain purple square", -0.44, 0.02), ("outlined brown heart", 0.44, 0.04)],
        [("outlined brown heart", 0.06, -0.41), ("outlined yellow star", 0.11, 0.4)],
    ]
    pixels = [156, 164, 144, 141, 173, 123, 109, 118, 166, 116, 118, 118, 179, 172, 167, 175]
    assert drawn.pixels[0, ::9, ::9, 0].ravel().tolist() == pytest.approx(pixels, abs=1)


def test_a_scene_does_not_depend_on_how_many_are_drawn(drawn: Scenes) -> None:
    few = draw_scenes(3, seed=0, split=1, style="cards")
    assert np.array_equal(few.pixels, drawn.pixels[:3])
    assert np.array_equal(few.masks, drawn.masks[:3])
    assert few.objects == drawn.objects[:3]


@pytest.mark.parametrize("other", [{"seed": 1}, {"split": 0}, {"style": "quilts"}], ids=str)
def test_seed_split_and_style_change_what_is_seen(drawn: Scenes, other: dict[str, int | str]) -> None:
    changed = draw_scenes(3, **({"seed": 0, "split": 1, "style": "cards"} | other))
    assert [pair[0].name for pair in changed.objects] != [pair[0].name for pair in drawn.objects[:3]]


def test_masks_cover_the_pixels_of_their_object() -> None:
    names = [name for name in shapes.all_class_names() if name.startswith("plain") and name.split()[1] != "gray"]
    plain = draw_scenes(20, seed=0, split=0, style="cards", classes=names)
    for picture, mask, objects in zip(plain.pixels, plain.masks, plain.objects, strict=True):
        for number, thing in enumerate(objects, start=1):
            inside = np.median(picture[mask == number], axis=0) / 255
            tone = np.asarray(shapes.COLOURS[thing.name.split()[1]])
            assert abs(inside - tone).max() < 0.2, thing.name


def test_annotations_name_what_is_drawn_and_what_captions_say(drawn: Scenes) -> None:
    known = described(drawn)
    for things, masks, regions, texts in zip(drawn.objects, drawn.masks, known.regions, captions(drawn), strict=True):
        assert [region.phrase for region in regions] == [thing.name for thing in things]
        for number, (_, (left, top, right, bottom)) in enumerate(regions, start=1):
            inside = masks == number
            assert inside[top : bottom + 1, left : right + 1].sum() == inside.sum()
            edges = inside[top], inside[bottom], inside[:, left], inside[:, right]
            assert all(edge.any() for edge in edges)
        first, second = (thing.name for thing in things)
        seen = relation(*things)
        said = [known.parses[text].relations for text in texts]
        assert said[1] == said[4] == ((first, seen, second),)
        assert said[0] == said[3] == ()
        assert [(end.subject, end.object) for end in said[2]] == [(second, first)]
        assert all(set(known.parses[text].entities) == {first, second} for text in texts)
    assert known.subset([2, 0]).regions == (known.regions[2], known.regions[0])


def test_objects_are_where_their_masks_are(drawn: Scenes) -> None:
    row, column = np.mgrid[:32, :32]
    for mask, (first, second) in zip(drawn.masks, drawn.objects, strict=True):
        x1, x2 = column[mask == 1].mean(), column[mask == 2].mean()
        y1, y2 = row[mask == 1].mean(), row[mask == 2].mean()
        gaps = {"left of": x2 - x1, "right of": x1 - x2, "above": y2 - y1, "below": y1 - y2}
        assert relation(first, second) == max(gaps, key=gaps.__getitem__)
        assert scenes.OPPOSITE[relation(first, second)] == relation(second, first)


def test_every_relation_occurs_about_as_often() -> None:
    many = draw_scenes(400, seed=0, split=0, style="cards")
    counts = Counter(relation(*pair) for pair in many.objects)
    assert set(counts) == set(scenes.RELATIONS)
    assert max(abs(count - 100) for count in counts.values()) < 40


@pytest.mark.parametrize("size", [2, 5, 6], ids=str)
def test_each_class_appears_twice_in_as_many_scenes_as_there_are_classes(size: int) -> None:
    pairs = scenes._pairs(NAMES[:size], size * (size - 1) // 2, [0])
    assert len({frozenset(pair) for pair in pairs}) == len(pairs)
    assert all(first != second for first, second in pairs)
    counts = Counter(name for pair in pairs[:size] for name in pair)
    assert set(counts.values()) == {2 if size > 2 else 1}
    assert scenes._pairs(NAMES[:size], len(pairs) + 1, [0])[-1] == pairs[0]


@pytest.mark.parametrize("style", [*scenes.FRAMES, "scenes"], ids=str)
def test_a_scene_has_five_captions_that_no_other_has(style: str) -> None:
    described = captions(draw_scenes(100, seed=0, split=1, style=style))
    assert {len(row) for row in described} == {5}
    assert len({caption for row in described for caption in row}) == 500


def test_captions_say_what_is_where() -> None:
    things = (SceneObject("outlined red star", 0.5, 0.1), SceneObject("plain blue ring", -0.5, 0.0))
    empty = np.zeros((1, 32, 32), np.uint8)
    assert captions(Scenes(empty, empty, (things,), "night_sky"))[0] == (
        "a photo of an outlined red star and a plain blue ring at night.",
        "an outlined red star right of a plain blue ring at night.",
        "a picture of a plain blue ring left of an outlined red star.",
        "this is a plain blue ring and an outlined red star at night.",
        "two shapes, an outlined red star right of a plain blue ring.",
    )


def test_captions_refuse_scenes_they_could_not_tell_apart() -> None:
    with pytest.raises(ValueError, match="4 scenes of only 3 pairs"):
        captions(draw_scenes(4, seed=0, split=0, style="cards", classes=NAMES[:3]))


def test_class_masks_number_the_callers_classes() -> None:
    drawn = draw_scenes(6, seed=0, split=0, style="cards", classes=NAMES)
    masks = class_masks(drawn, NAMES)
    for mask, numbers, objects in zip(drawn.masks, masks, drawn.objects, strict=True):
        expected = [0, *(NAMES.index(thing.name) + 1 for thing in objects)]
        assert [np.unique(numbers[mask == k]).tolist() for k in range(3)] == [[number] for number in expected]
