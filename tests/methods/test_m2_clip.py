"""M2-CLIP follows the official code; tests/golden/m2_clip_official.json says how its figures were made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from everclip.backbones.open_clip import OpenClip
from everclip.data.images import ArrayImages
from everclip.methods.m2_clip import M2Clip
from everclip.modules.masked_words import MASK, NOTHING, MaskedWords, split
from everclip.modules.ted_adapters import Adapters, Differences, TedAdapter
from everclip.types import Batch, ClassSet, ParameterGroup, Session
from tests.methods.official_clips import CLIPS, LABELS, NAMES, make_backbone, summary, values

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "m2_clip_official.json").read_text())
CLASSES = ClassSet((0, 1, 2), NAMES, ("A video of {}",))
BATCH = Batch(CLIPS, LABELS, torch.arange(4))
OURS = {
    "fc1": "down",
    "fc2": "up",
    "textad_fc1": "down",
    "textad_fc2": "up",
    "pre_attn": "attention",
    "pre_mlp": "mlp",
    "transform.dense": "words.transform",
    "transform.LayerNorm": "words.norm",
}


def begin(method: M2Clip, classes: ClassSet = CLASSES) -> M2Clip:
    samples = ArrayImages(np.zeros((1, 16, 16, 3), np.uint8), np.array([classes.ids[0]]), "empty")
    method.begin_session(Session(0, "base", classes, classes, samples), lambda *_, **__: (Tensor(), Tensor()))
    return method


def official(method: M2Clip, name: str, what: Callable[[Tensor], Tensor]) -> Tensor:
    """The parameter of an official name, or its gradient, as the official code shapes it; a view."""
    assert method.words is not None
    assert method.linear is not None
    for rows, beginning in ((method.words.rows.rows, "mlm_adapter."), (method.linear.rows, "visual.adapter_fc.")):
        if name in (f"{beginning}bias", f"{beginning}weight", f"{beginning}decoder.weight"):
            return what(rows)[:, -1] if name.endswith("bias") else what(rows)[:, :-1]
    place, kind = name.removeprefix("visual.").rsplit(".", 1)
    place = place.replace("t_adapter", "over_time").removeprefix("mlm_adapter.")
    if place.startswith("transformer."):
        _, _, layer, adapter, *part = place.split(".")
        tower = "vision_adapters" if name.startswith("visual.") else "text_adapters"
        tower, layer = ("words.adapters", "0") if layer == "12" else (tower, layer)
        part = part if tower != "vision_adapters" else ["difference" if len(part) > 1 else "enhancement", part[-1]]
        place = ".".join([tower, f"{OURS[adapter.removeprefix('adapter_')]}_{layer}", *part])
    head, _, last = place.rpartition(".")
    place = OURS.get(place, f"{head}.{OURS.get(last, last)}")
    if last == "conv" and "difference" not in head:  # over time
        own = what(method.get_parameter(f"{head}.{'kernel' if kind == 'weight' else 'bias'}"))
        return own.T[:, None] if kind == "weight" else own
    return what(method.get_parameter(f"{place}.{kind}"))


def is_dead(name: str) -> bool:
    return name.startswith("visual.transformer.resblocks.1.adapter_pre_mlp.offset_adapter.")


@pytest.fixture
def method(tmp_path: Path) -> M2Clip:
    """With the weights of the official run, and its masked texts."""
    method = M2Clip(
        make_backbone(tmp_path),
        adapter_width=6,
        places=["attention", "mlp"],
        double_softmax=True,
        dropout=0,
        text_lr=0.005,
    )
    begin(method).double()
    with torch.no_grad():
        for number, name in enumerate(sorted(GOLDEN["gradients"])):
            if not is_dead(name):
                parameter = official(method, name, lambda p: p)
                zero = name in ("mlm_adapter.bias", "visual.adapter_fc.bias")
                parameter.copy_(values(100 + number, *parameter.shape, scale=0 if zero else 0.2).view_as(parameter))
    return method


def test_outputs_losses_gradients_and_a_step_follow_the_official_code(
    method: M2Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = torch.tensor(GOLDEN["tokens"]), torch.tensor(GOLDEN["targets"])
    monkeypatch.setattr(method, "_texts", lambda *_: texts)
    close = {"rtol": 1e-9, "atol": 1e-9}
    with torch.no_grad():
        expected = {name: torch.tensor(value, dtype=torch.float64) for name, value in GOLDEN["outputs"].items()}
        torch.testing.assert_close(method.encode_image(CLIPS), expected["video"], **close)
        torch.testing.assert_close(method.class_features(CLASSES), expected["texts"], **close)
        torch.testing.assert_close(method.logits(CLIPS, CLASSES), expected["similarity"], **close)
        method.predictor = "linear"
        torch.testing.assert_close(method.logits(CLIPS, CLASSES), expected["linear"], **close)

    def check_losses(losses: dict[str, float], total: Tensor, ours: dict[str, Tensor]) -> None:
        shares = {"contrastive": 0.5, "cmc": 0.5, "mlm": 0.1, "vc": 1.0}
        assert {n: float(t.detach()) for n, t in ours.items()} == pytest.approx(
            {n: w * losses[n] for n, w in shares.items()}
        )
        assert float(total.detach()) == pytest.approx(losses["total"], rel=1e-9)

    ours = method.loss(BATCH)
    total = torch.stack(list(ours.values())).sum()
    check_losses(GOLDEN["losses"], total, ours)
    total.backward()
    for name, expected_gradient in GOLDEN["gradients"].items():
        if is_dead(name):
            assert expected_gradient == [0, 0, 0]
        else:
            gradient = summary(official(method, name, lambda p: p.grad))  # type: ignore[arg-type,return-value]
            assert gradient == pytest.approx(expected_gradient, rel=1e-7, abs=1e-10), name
    (phase,) = method.phases(None)  # type: ignore[arg-type]  # it asks nothing of the session
    groups = [g for g in phase.parameters or () if isinstance(g, ParameterGroup)]
    own = [
        {"params": g.parameters} | {k: v for k in ("lr", "weight_decay") if (v := getattr(g, k)) is not None}
        for g in groups
    ]
    torch.optim.AdamW(own, lr=0.01, weight_decay=0.1).step()
    method.after_step()
    for name, expected_value in GOLDEN["updated"].items():
        if not is_dead(name):
            assert summary(official(method, name, lambda p: p)) == pytest.approx(expected_value, rel=1e-6, abs=1e-8), (
                name
            )
    ours = method.loss(BATCH)
    check_losses(GOLDEN["losses_after"], torch.stack(list(ours.values())).sum(), ours)


def test_words_are_masked_as_by_the_official_code(method: M2Clip) -> None:
    assert method.words is not None
    assert list(method.words._known) == GOLDEN["words"]
    tokenize = method.backbone.tokenize

    def mask(share: float, rate: float, texts: list[str]) -> tuple[list[list[int]], list[list[int]]]:
        assert method.words is not None
        streams = [np.random.default_rng(number) for number in range(len(texts))]
        tokens, targets = method.words.mask(texts, streams, share, rate, tokenize)
        return tokens.tolist(), targets.tolist()

    (tokens,), (targets,) = mask(1.0, 1.0, ["A video of opening a door"])
    assert [tokens, targets] == [row[: len(tokens)] for row in GOLDEN["all_masked"]]
    texts = ["A video of jumping"] * 20
    plain = tokenize(["A video of jumping"])[0].tolist()
    assert mask(0.0, 0.2, texts) == ([plain] * 20, [[NOTHING] * len(plain)] * 20)
    changed = [row for row in mask(0.5, 0.2, texts)[1] if row != [NOTHING] * len(plain)]
    assert 5 <= len(changed) <= 15
    assert {len(row) - row.count(NOTHING) for row in changed} == {1}
    assert len({tuple(row) for row in changed}) == 4  # each word is hidden some time


def test_a_word_of_several_tokens_is_masked_by_one_and_stays_in_its_place() -> None:
    backbone, words = OpenClip(model="everclip-tiny", weights="embedded"), MaskedWords(96, Adapters(None, (), ()))  # type: ignore[arg-type]
    text = "a video of abseiling, xylophonically"
    words.learn([text])
    assert split(text) == ["a", "video", "of", "abseiling", ",", "xylophonically"]
    for seed in range(6):
        tokens, targets = words.mask([text], [np.random.default_rng(seed)], 1.0, 0.2, backbone.tokenize)
        (place,) = (targets[0] != NOTHING).nonzero().flatten().tolist()
        word = list(words._known)[int(targets[0, place])]
        assert (
            tokens.tolist()
            == backbone.tokenize([text.replace(word, MASK, 1) if word != "a" else "mask" + text[1:]]).tolist()
        )
        assert tokens[0, place] == backbone.tokenize([MASK])[0, 1]


def test_words_behind_what_a_tower_can_read_are_not_guessed(method: M2Clip) -> None:
    assert method.words is not None
    text = " ".join(["a video of opening"] * 30)
    tokens, targets = method.words.mask([text], [np.random.default_rng(0)], 1.0, 1.0, method.backbone.tokenize)
    length = tokens.shape[1]
    assert (targets[0] != NOTHING).nonzero().flatten().tolist() == list(range(1, length - 1))


def test_new_names_add_words_behind_those_there_are(method: M2Clip) -> None:
    assert method.words is not None
    before = method.words.rows.rows.detach().clone()
    more = ClassSet((0, 1, 2, 3), (*NAMES, "closing a box"), CLASSES.templates)
    method.words.learn(more.first_prompts())
    assert list(method.words._known) == [*GOLDEN["words"], "box"]
    assert torch.equal(method.words.rows.rows[: len(before)], before)


@pytest.fixture
def make(tiny: Callable[[], OpenClip]) -> Callable[..., M2Clip]:
    def make(**options: Any) -> M2Clip:
        torch.manual_seed(0)
        return begin(M2Clip(tiny(), adapter_width=8, **options))

    return make


NOISE = torch.randn(4, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_nothing_changes_at_first(make: Callable[..., M2Clip]) -> None:
    method = make(zero_init=True, places=["attention", "mlp"], text_layers=None)
    backbone, texts = method.backbone, CLASSES.prompts("a video of {}.")
    with torch.no_grad():
        for images in (NOISE, NOISE[:, 0]):
            torch.testing.assert_close(method.encode_image(images), backbone.encode_image(images), rtol=0, atol=2e-6)
        expected = backbone.encode_text(backbone.tokenize(texts))
        torch.testing.assert_close(method.encode_text(texts), expected, rtol=0, atol=2e-6)
        assert not torch.allclose(make().encode_text(texts), expected, atol=1e-3)


def draw(module: torch.nn.Module) -> None:
    stream = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3, generator=stream)


def test_what_does_not_move_has_no_differences() -> None:
    part, still = Differences(10, 4), values(0, 2, 5, 10).float().repeat_interleave(3, dim=0)
    torch.nn.init.normal_(part.conv.weight)
    assert not part(still, 3).any()
    still[4] += 1  # the second frame of the second clip
    assert part(still, 3).flatten(1).any(dim=1).tolist() == [False] * 4 + [True] * 2


def test_the_order_of_frames_counts(make: Callable[..., M2Clip]) -> None:
    method = make()
    for adapter in method.vision_adapters.values():
        draw(adapter)
    with torch.no_grad():
        assert not torch.allclose(method.encode_image(NOISE.flip(1)), method.encode_image(NOISE), atol=1e-2)


def test_a_loss_follows_from_the_clips_not_from_their_places(make: Callable[..., M2Clip]) -> None:
    method = make().double()
    batch, order = Batch(NOISE.double(), LABELS, torch.tensor([9, 4, 7, 1])), torch.tensor([2, 0, 3, 1])
    losses = method.loss(batch)
    assert losses["mlm"] > 0
    again = method.loss(batch.map(lambda tensor: tensor[order]))
    method.backbone.pieces = 2
    for other in (again, method.loss(batch)):
        assert {n: float(t.detach()) for n, t in other.items()} == pytest.approx(
            {n: float(t.detach()) for n, t in losses.items()}
        )
    method.after_step()
    assert method.loss(batch)["vc"] != losses["vc"]  # other numbers in every step


def test_a_batch_without_masks_has_no_loss_of_words(make: Callable[..., M2Clip]) -> None:
    losses = make(mask_share=0).loss(Batch(NOISE, LABELS, torch.arange(4)))
    assert losses["mlm"] == 0
    assert all(loss.isfinite() for loss in losses.values())
    assert make(mlm_weight=0, vc_weight=0).loss(Batch(NOISE, LABELS, torch.arange(4))).keys() == {"contrastive", "cmc"}


def test_similarities_are_logits_unless_asked_otherwise(make: Callable[..., M2Clip]) -> None:
    method = make(cmc_weight=1.0)
    with torch.no_grad():
        expected = F.cross_entropy(method.logits(NOISE, CLASSES), LABELS)
        torch.testing.assert_close(method.loss(Batch(NOISE, LABELS, torch.arange(4)))["cmc"], expected)


def test_the_linear_layer_scores_trained_classes_alone(make: Callable[..., M2Clip]) -> None:
    method = make(predictor="linear")
    assert not method.open_vocabulary
    assert method.logits(NOISE, CLASSES.select([2, 0])).shape == (4, 2)
    with pytest.raises(ValueError, match="no row for the classes running"):
        method.logits(NOISE, ClassSet((7,), ("running",)))


@pytest.mark.parametrize(
    ("options", "classes", "words", "published"),
    [
        pytest.param({}, 400, 520, 16_138_136, id="kinetics"),
        pytest.param({"places": ["attention", "mlp"], "text_layers": None}, 174, 234, 39_524_248, id="something"),
    ],
)
def test_parameter_count_on_vit_b16_is_the_official_codes(
    options: dict[str, Any], classes: int, words: int, published: int
) -> None:
    backbone = OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False)
    with torch.device("meta"):
        method = M2Clip(backbone, **options)
        rows = 769 * classes + 513 * words
        dead = sum(p.numel() for p in TedAdapter(768, 384, True).parameters()) - sum(
            p.numel() for p in TedAdapter(768, 384, False).parameters()
        )
    assert method.num_trainable() + rows + dead == published


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contrastive_weight": 0, "cmc_weight": 0}, "nothing learns texts"),
        ({"predictor": "linear", "vc_weight": 0}, "a vc_weight above 0"),
        ({"text_layers": [9]}, r"layers=\[9\]: the blocks of the text tower are 0 to 3"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    tiny: Callable[[], OpenClip], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        M2Clip(tiny(), **options)
