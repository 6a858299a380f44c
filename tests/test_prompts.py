"""Class names that look different but are the same to the text tower."""

from __future__ import annotations

import logging

import pytest

from everclip.backbones.open_clip import OpenClip
from everclip.commands.prompts import check_prompts
from everclip.errors import ConfigError
from everclip.methods.zero_shot import ZeroShot
from everclip.types import ClassSet

LONG = " ".join(["very"] * 90)


@pytest.fixture(scope="module")
def method() -> ZeroShot:
    return ZeroShot(OpenClip(model="everclip-tiny", weights="embedded", load=False))


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("R&B", "R&amp;B"), id="html"),
        pytest.param(("caf\u00e9", "cafe\u0301"), id="accents"),
        pytest.param(("baker's yeast", "baker\u2019s yeast"), id="quotes"),
        pytest.param((f"{LONG} red", f"{LONG} blue"), id="cut"),
        pytest.param(("Zebra", "zebra"), id="case"),
    ],
)
def test_names_that_are_the_same_to_the_model_are_refused(names: tuple[str, str], method: ZeroShot) -> None:
    with pytest.raises(ConfigError, match=r"are the same to the model, which reads .* for both"):
        check_prompts(method, ClassSet((0, 1, 2), ("a dog", *names)))


def test_two_classes_of_one_name_are_told(method: ZeroShot, caplog: pytest.LogCaptureFixture) -> None:
    birds = ClassSet((0, 1, 2, 3), ("ant", "crane", "crane", "crane"))
    machines = ClassSet((4,), ("crane",), ("a machine: {}.",))
    with caplog.at_level(logging.WARNING, "everclip"):
        check_prompts(method, birds)
        assert "2 classes have the name of another, as 'crane'; no text tells them apart" in caplog.text
        caplog.clear()
        check_prompts(method, ClassSet.union([birds.select([0, 1]), machines]))
    assert caplog.text == ""  # their templates do


def test_prompts_that_are_cut_off_are_named(method: ZeroShot, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "everclip"):
        check_prompts(method, ClassSet((0, 1), ("ant", LONG)))
    assert "1 prompts fill or exceed what the model reads; one is 'a photo of a very very" in caplog.text
