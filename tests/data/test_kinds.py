"""Samples that are no labelled pictures: pairs, clips, masks; and what is random about them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import PILToTensor

from everclip.data.augment import RandomView
from everclip.data.images import ArrayImages, ConcatSamples
from everclip.data.loading import SeededBatches, make_loader
from everclip.data.masks import MaskedImages
from everclip.data.pairs import CaptionedImages
from everclip.data.sequences.drawn_kinds import clip_shapes, dense_shapes, retrieval_shapes
from everclip.data.validation import hold_out
from everclip.data.video.arrays import ArrayClips
from everclip.errors import ConfigError, DataError
from everclip.evaluation.comclip import ComClip
from everclip.types import NO_CLASS, Batch, Draw

PREPARE = PILToTensor()
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
PICTURES = ArrayImages(PIXELS, np.full(6, NO_CLASS), "random")
TEXTS = [[f"{picture}{letter}" for letter in "abcde"] for picture in range(6)]
PAIRS = CaptionedImages(PICTURES, TEXTS)


def drawn(batch_size: int, start: int = 0, seed: int = 0) -> dict[tuple[int, int], str]:
    """The caption that each picture comes with in each of four passes, by pass and picture."""
    steps = -(-6 // batch_size) * 4
    batches = SeededBatches(6, batch_size, (seed, 0, 0), steps=steps, start=start)
    found: dict[tuple[int, int], str] = {}
    for number, batch in enumerate(make_loader(PAIRS, PREPARE, batches, 0), start=start):
        assert batch.texts is not None
        found |= {(number * batch_size // 6, i): t for i, t in zip(batch.indices.tolist(), batch.texts, strict=True)}
    return found


def test_captions_follow_from_seed_pass_and_picture_alone() -> None:
    found = drawn(3)
    assert found == drawn(6) == drawn(2)
    assert {key: text for key, text in found.items() if key[0] >= 2} == drawn(3, start=4)
    assert all(text[0] == str(picture) for (_, picture), text in found.items())
    assert len({tuple(found[epoch, picture] for picture in range(6)) for epoch in range(4)}) == 4
    assert drawn(3, seed=1) != found


def test_all_captions_come_and_evaluation_reads_the_first() -> None:
    letters = Counter(PAIRS.read([2], PREPARE, Draw((0, epoch))).texts[0][1] for epoch in range(200))  # type: ignore[index]
    assert set(letters) == set("abcde")
    assert min(letters.values()) > 20
    assert PAIRS.read([4, 0], PREPARE).texts == ("4a", "0a")


def test_parts_of_a_set_keep_their_captions_and_draw_by_their_place_in_it() -> None:
    both = ConcatSamples([PAIRS.subset([3, 1]), PAIRS.subset([0])])
    assert both.texts == (tuple(TEXTS[3]), tuple(TEXTS[1]), tuple(TEXTS[0]))
    batch = both.read([2, 0, 1], PREPARE)
    assert batch.texts == ("0a", "3a", "1a")
    assert batch.indices.tolist() == [2, 0, 1]
    assert torch.equal(batch.images, PICTURES.read([0, 3, 1], PREPARE).images)
    draw = Draw((5,))
    assert both.read([2], PREPARE, draw).texts == PAIRS.subset([0]).read([0], PREPARE, draw.shifted(2)).texts
    assert PAIRS.subset([3, 1]).fingerprint() != PAIRS.subset([3, 2]).fingerprint()


def test_a_picture_without_caption_is_refused() -> None:
    with pytest.raises(DataError, match="picture 3 has no caption"):
        CaptionedImages(PICTURES, [*TEXTS[:3], [], *TEXTS[4:]])
    with pytest.raises(DataError, match="6 pictures, but captions of 5"):
        CaptionedImages(PICTURES, TEXTS[:5])


def test_frames_of_a_clip_stay_in_order_and_are_augmented_alike() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (3, 2, 4, 4, 3), dtype=np.uint8)
    clips = ArrayClips(pixels, np.array([7, 8, 9]), "random").subset([2, 0])
    batch = clips.read([1, 0], PREPARE)
    assert batch.labels.tolist() == [7, 9]
    assert (batch.images.shape, clips.num_frames) == ((2, 2, 3, 4, 4), 2)
    assert torch.equal(batch.images[0, 1], torch.from_numpy(pixels[0, 1]).permute(2, 0, 1))
    for kind in ("flip", "crop"):
        draw = Draw((0,), view=RandomView(kind, 4))  # type: ignore[arg-type]  # a parametrised literal
        still = ArrayImages(pixels[[2, 0]][:, 1], np.arange(2), "random").read([0, 1], PREPARE, draw).images
        assert torch.equal(clips.read([0, 1], PREPARE, draw).images[:, 1], still)


def test_masks_come_with_their_pictures() -> None:
    masks = np.arange(6 * 16).reshape(6, 4, 4)
    masked = MaskedImages(PICTURES, masks).subset([5, 2])
    batch = masked.read([1], PREPARE)
    assert batch.targets is not None
    assert torch.equal(batch.targets["mask"], torch.from_numpy(masks[[2]]))
    union = Batch.union([batch, masked.read([0], PREPARE)], [1, 0])
    assert union.targets is not None
    assert union.targets["mask"][:, 0, 0].tolist() == [80, 32]


def test_retrieval_sequence_is_one_domain_per_session_all_judged() -> None:
    sequence = retrieval_shapes(name="r", domains=["cards", "quilts"], train_scenes=6, test_scenes=5)
    assert [session.name for session in sequence.sessions] == ["cards", "quilts"]
    assert [sequence.evaluated(0), sequence.trained(0)] == [[0, 1], [0]]
    assert [len(task.samples.texts) for task in sequence.tasks] == [5, 5]
    assert {len(own) for session in sequence.sessions for own in session.train.texts} == {5}
    again = retrieval_shapes(name="r", domains=["cards", "quilts"], train_scenes=6, test_scenes=5)
    other = retrieval_shapes(name="r", domains=["cards", "quilts"], train_scenes=6, test_scenes=5, seed=1)
    assert sequence.fingerprint() == again.fingerprint() != other.fingerprint()
    parts = retrieval_shapes(name="r", domains=["cards", "quilts"], train_scenes=6, test_scenes=5, scorer=ComClip())
    assert parts.fingerprint() != sequence.fingerprint()
    task = parts.tasks[1].samples.subset([3])
    assert task.described is not None
    assert all(text in task.described.parses for text in task.texts[0])
    assert len(task.described.regions) == 1


def test_clips_are_kept_after_they_were_drawn(tmp_path: Path) -> None:
    def build() -> list[torch.Tensor]:
        sequence = clip_shapes(
            name="c", kinds=["motion"], train_per_class=2, test_per_class=1, frames=3, cache_dir=str(tmp_path)
        )
        task = sequence.tasks[0]
        assert (task.samples.num_frames, sequence.sessions[0].train.labels.tolist()) == (3, [*np.repeat(range(6), 2)])
        return [task.samples.read(range(6), PREPARE).images]

    (first,) = build()
    files = set(tmp_path.rglob("*.npy"))
    assert len(files) == 2
    (second,) = build()
    assert torch.equal(first, second)
    assert set(tmp_path.rglob("*.npy")) == files


def test_dense_sequence_gives_every_session_classes_of_its_own() -> None:
    sequence = dense_shapes(name="d", num_sessions=2, way=3, train_scenes=4, test_scenes=3)
    for index, session in enumerate(sequence.sessions):
        batch = session.train.read(range(4), PREPARE)
        assert batch.targets is not None
        assert set(batch.targets["mask"].unique().tolist()) == {NO_CLASS, *session.new.ids}
        assert session.seen.ids == tuple(range(3 * index + 3))


@pytest.mark.parametrize(
    ("build", "text"),
    [
        pytest.param(
            lambda: retrieval_shapes(name="r", domains=["card"], train_scenes=2, test_scenes=2),
            r"sequence\.domains=card: must be one or more of cards, scenes",
            id="unknown domain",
        ),
        pytest.param(
            lambda: retrieval_shapes(name="r", domains=["cards"], train_scenes=5000, test_scenes=2),
            r"train_scenes=5000 .*: there are 4950 pairs",
            id="captions would repeat",
        ),
        pytest.param(
            lambda: dense_shapes(name="d", num_sessions=2, way=51, train_scenes=2, test_scenes=2),
            r"num_sessions=2 sequence\.way=51: a scene shows two classes, and there are 100",
            id="too many classes",
        ),
    ],
)
def test_impossible_drawings_are_refused(build: object, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        build()  # type: ignore[operator]  # a function


def test_samples_without_classes_are_held_out_too() -> None:
    whole = retrieval_shapes(name="r", domains=["cards"], train_scenes=10, test_scenes=5)
    held = hold_out(whole, 0.2)
    assert (len(held.sessions[0].train), len(held.tasks[0].samples)) == (8, 2)
    kept, judged = set(held.sessions[0].train.texts), set(held.tasks[0].samples.texts)
    assert kept | judged == set(whole.sessions[0].train.texts)
    assert not kept & judged
