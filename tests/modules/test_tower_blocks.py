"""Which blocks and weights of a backbone's towers there are to be adapted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from everclip.backbones.blocks import AdaptedBlock
from everclip.backbones.insertion import matching
from everclip.backbones.open_clip import OpenClip
from everclip.modules.tower_blocks import Towers, adapt_blocks, layer_norms, unfreeze_matching
from tests.methods.test_cpe_clip import NAMES, Tiny, make_batch


@pytest.mark.parametrize(
    ("towers", "outside", "values"),
    [
        ("both", True, 65_536),
        # What the code of arXiv 2503.11609 trains (FarinaMatteo/rethinking_fewshot_vlms @ 64ac143, model_utils.py).
        ("both", False, 61_440),
        ("vision", True, 12 * 4 * 768 + 4 * 768),
        ("text", False, 12 * 4 * 512),
    ],
)
def test_the_layer_norms_of_a_tower(towers: Towers, outside: bool, values: int) -> None:
    backbone = OpenClip(model="ViT-B-16", weights="random", load=False)
    assert sum(p.numel() for p in layer_norms(backbone, towers, outside_blocks=outside)) == values


def test_a_tower_without_layer_norms_is_refused() -> None:
    backbone = OpenClip(model="RN50", weights="random", load=False)
    with pytest.raises(ValueError, match="towers=vision has no LayerNorm"):
        layer_norms(backbone, "vision")


def test_adapted_blocks_change_nothing_until_they_have_parts(tiny: Tiny) -> None:
    plain, backbone = tiny(), tiny()
    blocks = adapt_blocks(backbone, "both")
    assert {tower: len(found) for tower, found in blocks.items()} == {"vision": 4, "text": 4}
    images, tokens = make_batch([0, 1]).images, plain.tokenize(NAMES)
    with torch.no_grad():
        torch.testing.assert_close(backbone.encode_image(images), plain.encode_image(images), rtol=0, atol=1e-5)
        torch.testing.assert_close(backbone.encode_text(tokens), plain.encode_text(tokens), rtol=0, atol=1e-5)
    assert backbone.state_dict().keys() == plain.state_dict().keys()


def test_blocks_are_chosen_by_number_from_either_end(tiny: Tiny) -> None:
    backbone = tiny()
    (blocks,) = adapt_blocks(backbone, "vision", [-1, 0]).values()
    assert [name for name, module in backbone.named_modules() if isinstance(module, AdaptedBlock)] == [
        "model.visual.transformer.resblocks.0",
        "model.visual.transformer.resblocks.3",
    ]
    assert blocks[1] is backbone.get_submodule("model.visual.transformer.resblocks.3")
    with pytest.raises(ValueError, match=r"layers=\[4, -5\]: the blocks of the text tower are 0 to 3"):
        adapt_blocks(backbone, "text", [4, 0, -5])


def test_only_parts_are_ever_in_training_mode(tiny: Tiny) -> None:
    backbone = tiny()
    (blocks,) = adapt_blocks(backbone, "text", [0]).values()
    blocks[0].parts["mlp"] = nn.Dropout(0.5)
    backbone.train()
    assert {name for name, module in backbone.named_modules() if module.training} == {
        "model.transformer.resblocks.0.parts",
        "model.transformer.resblocks.0.parts.mlp",
    }
    backbone.eval()
    assert not any(module.training for module in backbone.modules())


@pytest.mark.parametrize(
    ("towers", "pattern", "count"),
    [
        ("both", r".*\bln_\w+\.bias", 2 * 4 * 2 + 2 + 1),
        ("vision", r".*\.1\.ln_[12]\..*", 4),
        ("text", r"ln_final\.weight", 1),
    ],
)
def test_weights_are_unfrozen_by_name(tiny: Tiny, towers: Towers, pattern: str, count: int) -> None:
    backbone = tiny()
    names = unfreeze_matching(backbone, towers, pattern)
    assert len(names) == count
    trained = [name.removeprefix("model.") for name, weight in backbone.named_parameters() if weight.requires_grad]
    assert sorted(trained) == sorted(names)


def test_a_pattern_that_matches_nothing_is_refused_with_what_is_near(tiny: Tiny) -> None:
    backbone = tiny()
    near = r"no weight of vision tower matches '.*'; there is visual\.ln_post\.bias"
    with pytest.raises(ValueError, match=near):
        unfreeze_matching(backbone, "vision", r"visual\.ln_pos\.bias")
    with pytest.raises(ValueError, match=r"no weight of text tower matches 'logit_scale'"):
        unfreeze_matching(backbone, "text", "logit_scale")
    with pytest.raises(ValueError, match=r"'\(' is no regular expression: missing \)"):
        matching(["a"], "(", "letter")
    assert not any(weight.requires_grad for weight in backbone.parameters())
