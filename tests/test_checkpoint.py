from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from everclip.errors import NotFiniteError
from everclip.methods.cpe_clip import CpeClip
from everclip.methods.ncm import Ncm
from everclip.methods.zero_shot import ZeroShot
from everclip.training.checkpoint import FORMAT, Adapted, CheckpointError, load_session, restore, save_session
from tests.methods.test_cpe_clip import EVERY, Tiny


def test_tensors_and_facts_come_back(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}
    save_session(tmp_path / "s.safetensors", tensors, {"session": 3, "digest": "abc"})
    loaded, facts = load_session(tmp_path / "s.safetensors")
    assert {name: value.tolist() for name, value in loaded.items()} == {n: v.tolist() for n, v in tensors.items()}
    assert facts == {"format": FORMAT, "session": 3, "digest": "abc"}


def test_a_frozen_method_has_nothing_to_keep(tiny: Tiny) -> None:
    assert Adapted(ZeroShot(tiny())).tensors() == {}


def test_weights_merged_without_gradients_are_found(tiny: Tiny) -> None:
    method = ZeroShot(tiny())
    adapted = Adapted(method)
    with torch.no_grad():
        method.backbone.model.visual.proj.mul_(2)
    assert set(adapted.tensors()) == {"backbone.model.visual.proj"}


@pytest.mark.parametrize("value", [1e30, float("nan"), float("-inf")])
def test_weights_that_no_step_can_go_on_from_are_refused(tiny: Tiny, value: float) -> None:
    method = Ncm(tiny())
    method.register_buffer("mask", torch.tensor([0.0, float("-inf")]))  # may be meant
    adapted = Adapted(method)
    adapted.require_finite("now")
    with torch.no_grad():
        method.backbone.model.visual.proj[3, 3] = value
    with pytest.raises(NotFiniteError, match=r"now, backbone\.model\.visual\.proj of Ncm are not finite, or too large"):
        adapted.require_finite("now")


def test_a_mean_of_nothing_is_refused(tiny: Tiny) -> None:
    method = Ncm(tiny())
    method.means.append(EVERY, torch.full((5, 96), float("nan")))
    with pytest.raises(NotFiniteError, match=r"now, means\.rows of Ncm"):
        Adapted(method).require_finite("now")


def test_grown_state_is_restored(tiny: Tiny) -> None:
    method = Ncm(tiny())
    method.means.append(EVERY, torch.eye(5, 96))
    other = Ncm(tiny())
    restore(other, Adapted(method).tensors())
    assert torch.equal(other.means.of(EVERY.select([4, 0])), torch.eye(5, 96)[[4, 0]])


def test_a_name_the_method_does_not_have_is_refused(tiny: Tiny) -> None:
    with pytest.raises(CheckpointError, match=r"holds means\.ids, which CpeClip does not have"):
        restore(CpeClip(tiny()), {"means.ids": torch.zeros(1)})


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"x" * 100])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "session_00.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"session_00\.safetensors cannot be read"):
        load_session(path)


@pytest.mark.parametrize(("old", "new"), [(b"\x00\x00\xa0\x40", b"\x00\x00\xa1\x40"), (b"abc", b"abd")])
def test_a_changed_byte_is_found(old: bytes, new: bytes, tmp_path: Path) -> None:
    path = tmp_path / "session_00.safetensors"
    save_session(path, {"a": torch.arange(6.0)}, {"digest": "abc"})
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    with pytest.raises(CheckpointError, match=r"session_00\.safetensors is damaged"):
        load_session(path)


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"has format None, this version reads formats \(3, 4\)"):
        load_session(path)
    save_file({"a": torch.zeros(1)}, path, metadata={"everclip": json.dumps({"format": 99})})
    with pytest.raises(CheckpointError, match="has format 99"):
        load_session(path)
