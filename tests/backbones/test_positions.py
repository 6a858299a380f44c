"""Longer texts: stretched positions and files of Long-CLIP follow the official code's own numbers.

tests/golden/long_clip_official.json was made by running the official code outside the project; its first key says how.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from everclip.backbones.local_dir import local_dir, plain_features
from everclip.backbones.open_clip import OpenClip
from everclip.backbones.positions import stretch_text_tower, stretched
from everclip.errors import ConfigError, MissingError
from tests.methods.long_texts import GOLDEN, checkpoint, images, model_file, texts


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> OpenClip:
    """The model of the golden run, stretched."""
    folder = tmp_path_factory.mktemp("long_clip")
    return OpenClip(model=model_file(folder, 77), weights=checkpoint(folder / "small.pt", seed=0), stretch=4)


def close(found: Tensor, expected: object, atol: float = 1e-6) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=atol)


@torch.no_grad()
def test_stretched_positions_follow_the_official_code(ours: OpenClip) -> None:
    table = ours.model.positional_embedding
    assert table.shape == (248, 64)
    assert not table.requires_grad
    close(table[GOLDEN["rows"], :4], GOLDEN["positions"], 1e-8)
    assert ours.config["text_cfg"]["context_length"] == 248


@torch.no_grad()
def test_long_texts_and_pictures_follow_the_official_code(ours: OpenClip) -> None:
    tokens = ours.tokenize(texts(3))
    assert (tokens != 0).sum(dim=1).tolist() == GOLDEN["tokens"]
    close(ours.encode_text(tokens, normalize=False)[:, :6], GOLDEN["text"])
    close(ours.encode_text(ours.tokenize(["a picture of thing 0"]), normalize=False)[0, :6], GOLDEN["short_text"])
    close(ours.encode_image(images()[:1], normalize=False)[0, :6], GOLDEN["image"])


@torch.no_grad()
def test_a_published_file_has_its_two_tables_merged(tmp_path: Path) -> None:
    model, weights = model_file(tmp_path, 248), checkpoint(tmp_path / "released.pt", seed=2)
    backbone, expected = OpenClip(model=model, weights=weights), GOLDEN["released"]
    close(backbone.encode_text(backbone.tokenize(texts(3)), normalize=False)[:, :6], expected["text"])
    close(backbone.encode_image(images()[:1], normalize=False)[0, :6], expected["image"])
    short = backbone.tokenize(["a picture of thing 0"])
    close(backbone.encode_text(short, normalize=False)[0, :6], expected["short_text"])
    checked = OpenClip(model=model, weights=weights, load=False)
    assert next(iter(checked.model.parameters())).is_meta
    with pytest.raises(MissingError, match=r"is no checkpoint of .*: (its|the names)"):
        OpenClip(model=model_file(tmp_path, 77), weights=weights)


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_an_ordinary_file_is_not_stretched_in_silence(tmp_path: Path, kind: str) -> None:
    weights = checkpoint(tmp_path / "ordinary.pt", seed=0)
    if kind == "safetensors":
        save_file(torch.load(weights), weights := str(tmp_path / "ordinary.safetensors"))
    for load in (True, False):
        expected = "texts have up to 77 tokens, the model's 248; choose a model of 77, with backbone.stretch=4"
        with pytest.raises(MissingError, match=expected):
            OpenClip(model=model_file(tmp_path, 248), weights=weights, load=load)
        with pytest.raises(MissingError, match=r"tokens, the model's 40; choose a model of 77$"):
            OpenClip(model=model_file(tmp_path, 40), weights=weights, load=load)


def test_a_table_is_stretched_by_any_factor() -> None:
    table = torch.arange(22.0)[:, None] ** 2
    assert stretched(table, 1).equal(table)
    tail = stretched(table, 2)[20:, 0].tolist()
    assert tail == [400, 420.5, 441, 461.5]


@torch.no_grad()
def test_short_texts_stay_the_same_and_cost_no_more(tiny: Callable[[], OpenClip]) -> None:
    plain, longer, lengths = tiny(), OpenClip(model="everclip-tiny", weights="embedded", stretch=4), []
    longer.model.transformer.resblocks[0].register_forward_hook(lambda module, given, out: lengths.append(out.shape[1]))
    short = ["a photo of a red circle.", "ring"]
    tokens = longer.tokenize(short)
    assert torch.equal(longer.encode_text(tokens), plain.encode_text(plain.tokenize(short)))
    assert lengths == [tokens.shape[1]] == [9]
    words = " ".join(["ring"] * 300)
    assert plain.tokenize([words]).shape[1] == 77
    assert longer.tokenize([words]).shape[1] == 248


@torch.no_grad()
def test_what_is_stretched_leaves_everclip_as_it_is(ours: OpenClip, tmp_path: Path) -> None:
    for name, content in local_dir(ours).items():
        (tmp_path / name).write_bytes(content)
    _, features = plain_features(tmp_path, images()[:1], texts(2))
    torch.testing.assert_close(features, ours.encode_text(ours.tokenize(texts(2))), rtol=0, atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_a_text_tower_that_short_texts_would_change_in_is_not_stretched(causal: bool) -> None:
    tower = SimpleNamespace(positional_embedding=torch.zeros(21 if causal else 77, 4))
    with pytest.raises(ConfigError, match=r"backbone\.stretch=4 needs a causal text tower of at least 22 positions"):
        stretch_text_tower(tower, 4, causal)


@pytest.mark.parametrize("size", ["B-16", "L-14"])
def test_long_clip_is_the_clip_it_began_as_with_more_positions(size: str) -> None:
    longer, plain = (open_clip.get_model_config(name) for name in (f"LongCLIP-{size}", f"ViT-{size}-quickgelu"))
    assert longer["text_cfg"].pop("context_length") == 248
    assert plain["text_cfg"].pop("context_length") == 77
    assert longer == plain
