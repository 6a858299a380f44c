"""Class names that look different but are the same to the text tower."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig

from everclip.backbones.open_clip import OpenClip
from everclip.commands.parts import make_parts
from everclip.commands.prompts import check_prompts, warn_of_long_captions, warn_of_twins
from everclip.data.images import ArrayImages
from everclip.data.pairs import CaptionedImages
from everclip.errors import ConfigError
from everclip.methods.zero_shot import ZeroShot
from everclip.types import NO_CLASS, ClassSet
from tests.data.datasets import replicas

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


def test_two_classes_of_one_name_are_told(caplog: pytest.LogCaptureFixture) -> None:
    animals = ClassSet((0, 1, 2, 3, 4), ("ant", "crane", "crane", "crane", "bat"))
    others = [ClassSet((5, 6), ("crane", "bat"), ("a machine: {}.",)), ClassSet((7,), ("bat",))]
    with caplog.at_level(logging.WARNING, "everclip"):
        warn_of_twins([animals, animals.select([3, 2])])
        assert "1 names are of several classes, as 'crane': no text tells those apart" in caplog.text
        caplog.clear()
        warn_of_twins([animals.select([0, 1]), *others, ClassSet.union([animals.select([0, 1]), others[0]])])
        assert caplog.text == ""  # they are not compared with each other, or their templates tell
        warn_of_twins([ClassSet.union([animals.select([0, 4]), *others])])
    assert "1 names are of several classes, as 'bat'" in caplog.text


def test_a_run_tells_of_two_classes_of_one_name(
    compose: Callable[..., DictConfig], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    split = replicas.coop(tmp_path, "dtd")
    split.write_text(split.read_text().replace('"ape"', '"cat"'))
    composed = compose("sequence=few_shot", "sequence/dataset=dtd", f"paths.data={tmp_path}", "method=zero_shot")
    make_parts(composed, load=False)
    assert "1 names are of several classes, as 'cat'" in capsys.readouterr().out


def test_prompts_that_are_cut_off_are_named(method: ZeroShot, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "everclip"):
        check_prompts(method, ClassSet((0, 1), ("ant", LONG)))
    assert "1 prompts fill or exceed what the model reads; one is 'a photo of a very very" in caplog.text


def test_captions_that_the_model_cuts_are_counted(
    tiny: Callable[[], OpenClip], caplog: pytest.LogCaptureFixture
) -> None:
    backbone = tiny()
    length = backbone.tokenize(["a " * 500]).shape[1]
    fills, fits = " ".join(["a"] * (length - 2)), " ".join(["a"] * (length - 3))
    texts = [[fits, fills, f"{fills} a"], ["x" * 400, "short, with   " + " " * 400]]
    pictures = ArrayImages(np.zeros((2, 4, 4, 3), np.uint8), np.full(2, NO_CLASS), "none")
    warn_of_long_captions(backbone, [pictures, CaptionedImages(pictures, texts)])
    (said,) = caplog.messages
    assert said.startswith(f"3 of 5 captions fill or exceed the {length} tokens that the model reads")
    caplog.clear()
    warn_of_long_captions(backbone, [CaptionedImages(pictures, [[fits], ["a cat"]])])
    assert caplog.messages == []
