from __future__ import annotations

from everclip.backbones.open_clip import OpenClip
from everclip.methods.layernorm_tuning import LayernormTuning
from tests.methods.test_cpe_clip import Tiny


def test_parameter_count_on_vit_b16() -> None:
    backbone = OpenClip(model="ViT-B-16-quickgelu", weights="random", load=False)
    # Gain and bias of two norms per block, of two more around those of the image tower, of one behind the text tower's.
    assert LayernormTuning(backbone).num_trainable() == 2 * (768 * (2 * 12 + 2) + 512 * (2 * 12 + 1))


def test_nothing_but_norms_is_trained(tiny: Tiny) -> None:
    method = LayernormTuning(tiny(), towers="vision", outside_blocks=False)
    trained = {name for name, weight in method.named_parameters() if weight.requires_grad}
    assert trained == {
        n for n, _ in method.named_parameters() if ".visual." in n and ".ln_" in n and ".resblocks." in n
    }
