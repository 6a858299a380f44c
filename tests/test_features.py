"""Pictures that a method never changes pass its image tower once."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from everclip.backbones.open_clip import OpenClip
from everclip.data.augment import RandomView
from everclip.data.encoded import EncodedSamples
from everclip.data.feature_files import FeatureFiles
from everclip.data.images import ArrayImages
from everclip.data.loading import SeededBatches
from everclip.data.pairs import CaptionedImages
from everclip.data.video.arrays import ArrayClips
from everclip.methods.zero_shot import ZeroShot
from everclip.training.checkpoint import load_session
from everclip.training.engine import Engine
from everclip.training.evaluation import Evaluated
from everclip.training.features import free_memory, looks_of
from everclip.training.phases import Length
from everclip.types import Draw, Phase, SessionView, as_clips
from tests.conftest import SMALL, run_words

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
VIEW = RandomView("crop", 32)


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures the image tower sees at a time."""
    seen: list[int] = []
    patches = nn.Conv2d.forward

    def count(self: nn.Conv2d, images: Tensor) -> Tensor:
        seen.append(len(images))
        return patches(self, images)

    monkeypatch.setattr(nn.Conv2d, "forward", count)
    return seen


def images() -> ArrayImages:
    return ArrayImages(PIXELS, np.arange(9) % 3, "random")


@pytest.mark.parametrize("frames", [(), (3,)], ids=["pictures", "clips"])
def test_a_backbone_takes_its_features_for_pictures(frames: tuple[int, ...], tiny: Callable[[], OpenClip]) -> None:
    backbone = tiny()
    shown = backbone.normalize(torch.from_numpy(PIXELS[:6]).movedim(-1, 1)).unflatten(0, (-1, *(frames or (1,))))
    shown = shown if frames else shown[:, 0]
    features = backbone.encode_image(shown, normalize=False, project=False)
    assert features.shape == (len(shown), backbone.vision.width)
    torch.testing.assert_close(backbone.encode_image(features), backbone.encode_image(shown), rtol=1e-5, atol=1e-6)
    assert torch.equal(backbone.encode_image(features, project=False, normalize=False), features)
    assert torch.equal(backbone.normalize(features), features)


def test_tokens_of_frozen_blocks_stand_for_pictures(
    passed: list[int], engine: Engine, tiny: Callable[[], OpenClip]
) -> None:
    method = ZeroShot(tiny())
    method.frozen_layers = range(-2, 0)
    clips = ArrayClips(PIXELS[:8].reshape(4, 2, 32, 32, 3), np.zeros(4, np.int64), "random")
    for given, frames in ((images(), 1), (clips, 2)):
        tokens = engine._features.tokens_instead(given, method, [None])
        passed.clear()
        shown, plain = (samples.read([3, 1], method.backbone.resize) for samples in (tokens, given))
        assert shown.labels.equal(plain.labels)
        read = method.backbone.hidden(as_clips(shown.images).flatten(0, 1), method.frozen_layers)
        assert passed == []
        pictures = as_clips(method.backbone.normalize(plain.images)).flatten(0, 1)
        expected = method.backbone.hidden(pictures, method.frozen_layers)
        assert [len(layer) for layer in read] == [2 * frames] * 2
        torch.testing.assert_close(read, expected, rtol=1e-5, atol=1e-6)
    engine._features._limit = 4 * shown.images[0].nbytes
    assert engine._features.tokens_instead(clips, method, [None]) is not clips
    with patch("everclip.training.features.free_memory", return_value=2 * engine._features._limit - 1):
        assert engine._features.tokens_instead(clips, method, [None]) is clips
    assert free_memory() > 0
    engine._features._limit -= 1
    assert engine._features.tokens_instead(clips, method, [None]) is clips


def test_later_passes_start_from_features(passed: list[int], tiny: Callable[[], OpenClip]) -> None:
    method, given, other = ZeroShot(tiny()), images(), images()
    shown = {}
    for keep in ("off", "memory"):
        passed.clear()
        extract = Engine(accelerator="cpu", eval_batch_size=4, features=keep).extractor(method, view=VIEW)
        shown[keep] = [extract(samples, method.encode_image)[0] for samples in (given, other, given)]
        shown[keep].append(extract(given, method.encode_image, as_trained=True)[0])  # looks otherwise every time
        assert passed == [4, 4, 1] * (4 if keep == "off" else 3)
    assert all(map(torch.equal, shown["off"], shown["memory"]))


def test_a_model_knows_only_its_own_features(engine: Engine, tiny: Callable[[], OpenClip]) -> None:
    given, first, second = images(), ZeroShot(tiny()), ZeroShot(tiny())
    with torch.no_grad():
        second.backbone.model.visual.conv1.weight.neg_()
    seen = [engine.extractor(method)(given, method.encode_image)[0] for method in (first, second)]
    assert not torch.allclose(*seen)


def test_texts_and_views_stay_beside_features(engine: Engine, tiny: Callable[[], OpenClip]) -> None:
    captioned = CaptionedImages(images(), [[f"text {i}", f"other {i}"] for i in range(9)])
    view, method = SessionView(captioned, 0), ZeroShot(tiny())
    draw = Draw((0, 1))
    plain = view.read([4, 7], method.backbone.resize, draw)
    encoded = engine._features.instead(view, method).read([4, 7], method.backbone.resize, draw)
    assert encoded.texts == plain.texts
    assert encoded.labels.equal(plain.labels)
    assert encoded.indices.tolist() == [4, 7]
    assert encoded.images.ndim == 2


def test_every_view_has_its_features() -> None:
    views = [torch.arange(9.0)[:, None] + 100 * number for number in range(3)]
    encoded = EncodedSamples(images(), views)
    for number in range(3):
        assert encoded.read([5, 2], lambda _: torch.empty(0), Draw((7, number))).images.tolist() == [
            [100 * number + 5], [100 * number + 2],
        ]  # fmt: skip
    assert encoded.subset([5, 2]).read([1], lambda _: torch.empty(0), Draw((7, 2))).images.tolist() == [[202]]


@pytest.mark.parametrize(
    ("views", "length", "draws", "expected"),
    [
        pytest.param(None, Length(1, 4, 3, 3), False, 0, id="another look in every pass"),
        pytest.param(2, Length(2, 4, 3, 6), False, 2, id="two looks"),
        pytest.param(8, Length(3, 4, 3, 9), False, 3, id="no more looks than passes"),
        pytest.param(2, Length(2, 4, 3, 4), False, 0, id="fewer pictures than looks"),
        pytest.param(2, Length(2, 4, 3, 6), True, 0, id="looks of every step"),
    ],
)
def test_only_what_is_seen_again_is_encoded_before(
    views: int | None, length: Length, draws: bool, expected: int
) -> None:
    phase = Phase(draws=object() if draws else None)  # type: ignore[arg-type]  # never called
    looks = looks_of(phase, length, 9, (3, 1), VIEW, views)
    assert looks == [Draw((3, 1, number), view=VIEW) for number in range(expected)] or (looks == () and not expected)
    assert looks_of(phase, replace(length, steps=3), 9, (3, 1), None, views) == [None]
    assert looks_of(phase, replace(length, steps=2), 9, (3, 1), None, views) == ()
    frames = looks_of(phase, length, 9, (3, 1), None, views, drawn=True)  # others in every pass, without augmentation
    assert frames == [Draw((3, 1, number)) for number in range(expected)] or (frames == () and not expected)


def test_passes_show_the_views_in_turn() -> None:
    batches = SeededBatches(9, 4, (3, 1), steps=12, view=VIEW, views=2)
    assert [batches.draw(step).key[-1] for step in range(12)] == [0] * 3 + [1] * 3 + [0] * 3 + [1] * 3


@pytest.mark.parametrize(
    ("words", "saved"),
    [
        (
            (*SMALL, "method=linear_probe", "train.base.epochs=4", "train.augment=flip", "train.views=2"),
            (4 - 2) * 6 * 8,
        ),
        (
            ("method=r2_tuning", "sequence=moving_shapes_grounding", "sequence.train_clips=4", "sequence.test_clips=2",
             "sequence.length=32", "sequence.clips.sampling.frames=4", "train.epochs=3"),
            (3 - 1) * 4 * 4 - 4,  # one clip tells how large they are
        ),
    ],
    ids=["features", "tokens"],
)  # fmt: skip
def test_training_on_features_is_training_on_pictures(
    words: tuple[str, ...], saved: int, passed: list[int], cache_dir: Path, tmp_path: Path
) -> None:
    stored, seen = {}, {}
    for keep in ("off", "memory"):
        passed.clear()
        folder = run_words(
            tmp_path / keep, cache_dir, *words, "max_sessions=1", "trainer=cpu", "logger=none", f"data.features={keep}"
        )
        stored[keep], seen[keep] = load_session(folder.checkpoint(0))[0], sum(passed)
    assert stored["off"].keys() == stored["memory"].keys()
    for name, rows in stored["off"].items():
        torch.testing.assert_close(stored["memory"][name], rows, rtol=1e-4, atol=1e-5)
    assert seen["off"] - seen["memory"] == saved


def files_of(folder: Path, limit: int = 10**9) -> FeatureFiles:
    return FeatureFiles(folder / "features", limit)


def test_later_runs_start_from_the_features_of_a_file(
    tmp_path: Path, passed: list[int], tiny: Callable[[], OpenClip]
) -> None:
    def seen(method: ZeroShot, size: int = 4) -> list[Tensor]:
        engine = Engine(accelerator="cpu", eval_batch_size=size, features=files_of(tmp_path))
        plain = engine.extractor(method)(images(), method.encode_image)[0]
        looks = [Draw((0, number), view=VIEW) for number in range(2)]
        shown = engine._features.instead(images(), method, looks)
        return [plain, *(shown.read(range(9), method.backbone.resize, look).images for look in looks)]

    method = ZeroShot(tiny())
    first = seen(method)
    assert passed == [4, 4, 1] * 3
    passed.clear()
    assert all(map(torch.equal, first, seen(ZeroShot(tiny()))))  # as another process would make it
    assert passed == []
    seen(method, size=9)  # may be rounded otherwise
    assert passed == [9] * 3
    passed.clear()
    with torch.no_grad():
        method.backbone.model.visual.conv1.weight.neg_()
    changed = ZeroShot(method.backbone)
    assert not torch.allclose(first[0], seen(changed)[0])
    assert passed == [4, 4, 1] * 3


def test_damaged_features_are_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files, rows = files_of(tmp_path), torch.arange(6.0).unflatten(0, (3, 2))
    files.keep("key", rows)
    assert torch.equal(files.load("key", 3), rows)
    assert files.load("other", 3) is None
    assert files.load("key", 4) is None
    path = tmp_path / "features/key.safetensors"
    whole = path.read_bytes()
    for content in (whole[:-1] + b"\1", whole[:20], b""):
        path.write_bytes(content)
        assert files.load("key", 3) is None
        assert "damaged" in caplog.records.pop().getMessage()
    files.keep("key", rows)
    assert torch.equal(files.load("key", 3), rows)


def test_features_that_may_not_be_kept_stop_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files_of(tmp_path).keep("key", torch.tensor([[float("nan")]]))
    files_of(tmp_path, limit=3).keep("key", torch.zeros(1, 1))
    assert not (tmp_path / "features").exists()
    (tmp_path / "features").write_text("a file where the folder would be")
    files_of(tmp_path).keep("key", torch.zeros(1, 1))
    assert "not kept" in caplog.text


def test_the_features_used_longest_ago_go_first(tmp_path: Path) -> None:
    rows = torch.zeros(1000, 1)
    files = files_of(tmp_path, limit=3 * 4300)
    for age, name in enumerate("abc"):
        files.keep(name, rows)
        os.utime(tmp_path / f"features/{name}.safetensors", (age, age))
    left = tmp_path / "features/.e.safetensors.0123456789abcdef.tmp"
    left.touch()
    os.utime(left, (0, 0))
    assert files.load("a", 1000) is not None
    files.keep("d", rows)
    assert sorted(path.stem for path in (tmp_path / "features").iterdir()) == ["a", "c", "d"]


def test_views_are_averaged_from_pictures_and_from_features(tiny: Callable[[], OpenClip]) -> None:
    method = ZeroShot(tiny())
    model = Evaluated(method)
    clips = method.backbone.normalize(torch.from_numpy(PIXELS[:8]).movedim(-1, 1)).unflatten(0, (2, 2, 2))
    with torch.no_grad():
        single = method.encode_image(clips.flatten(0, 1)).unflatten(0, (2, 2))
        features = method.backbone.encode_image(clips.flatten(0, 1), normalize=False, project=False)
        for shown in (clips, features.unflatten(0, (2, 2))):
            expected = torch.nn.functional.normalize(single.mean(dim=1), dim=-1)
            torch.testing.assert_close(model.encode_image(shown), expected, rtol=1e-5, atol=1e-6)
