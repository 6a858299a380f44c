from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from everclip.data import class_texts
from everclip.data.drawing import shapes
from everclip.errors import ConfigError, DataError, MissingError
from everclip.methods.zero_shot import ZeroShot
from everclip.types import ClassSet, ClassTexts
from tests.conftest import SMALL
from tests.test_cli import Command, everclip  # noqa: F401 (a fixture)

CLASSES = ClassSet((4, 2), ("zebra", "owl"))


class Told(ZeroShot):
    """Zero-shot on the texts of classes, said as it is built."""

    def __init__(self, backbone: Any, *, class_texts: ClassTexts) -> None:
        super().__init__(backbone)
        self.class_texts = class_texts

    def class_features(self, classes: ClassSet) -> Any:
        first = tuple(texts[0] for texts in self.class_texts.of(classes))
        return super().class_features(ClassSet(classes.ids, first, classes.templates))


def test_texts_come_in_the_order_of_the_classes() -> None:
    texts = ClassTexts({"owl": ("a bird",), "zebra": ("striped", "a horse")}, "here")
    assert texts.of(CLASSES) == [("striped", "a horse"), ("a bird",)]


def test_classes_without_texts_are_named_with_the_nearest() -> None:
    texts = ClassTexts({"zebras": ("striped",)}, "class_texts.path=my.json")
    with pytest.raises(ConfigError, match=r"my\.json has no texts of 2 classes: 'zebra' \(nearest: 'zebras'\), 'owl';"):
        texts.of(CLASSES)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, MissingError, "no such file"),
        ("{", DataError, "is no JSON"),
        ("[]", DataError, "holds no mapping"),
        ('{"owl": "a bird"}', DataError, "'owl' has 'a bird', expected a list of texts"),
        ('{"owl": []}', DataError, r"'owl' has \[\]"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, content: str | None, error: Any, message: str) -> None:
    path = tmp_path / "texts.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(error, match=rf"class_texts\.path={path}.*{message}"):
        class_texts.file(path=str(path))


def test_drawn_classes_have_two_texts_that_are_not_their_names() -> None:
    texts = class_texts.drawn_shapes()
    names = shapes.all_class_names()
    found = texts.of(ClassSet(tuple(range(len(names))), names))
    assert len({text for own in found for text in own} - set(names)) == 2 * len(names)
    assert texts.texts["dotted yellow cross"] == ("spotted golden plus sign", "a cross that is yellow and dotted")


def test_a_method_of_ones_own_asks_for_texts_in_its_config_alone(everclip: Command, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "told.yaml").write_text(
        f"# @package _global_\nmethod:\n  _target_: {__name__}.Told\n  class_texts: ${{class_texts}}\n"
    )
    (tmp_path / "texts.json").write_text(json.dumps({"plain red star": ["a star"]}))
    words = ("--config-dir", f"{tmp_path}/conf", "method=told", *SMALL)
    with patch("everclip.reporting.results.write_plots", return_value=[]):
        code, out, error = everclip(*words, "class_texts=shapes", "max_sessions=1")
    assert (code, "told" in out) == (0, True), error
    code, _, error = everclip(*words, "class_texts=file", f"class_texts.path={tmp_path}/texts.json", "check=true")
    assert code == 2
    assert "texts.json has no texts of 10 classes: " in error
    assert "(nearest: 'plain red star')" in error
