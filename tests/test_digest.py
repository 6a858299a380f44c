"""What names a run folder lasts: digests of today, parts that move, options that are added."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest
from omegaconf import DictConfig, OmegaConf, open_dict

import everclip
from everclip.backbones.open_clip import OpenClip
from everclip.commands import parts
from everclip.config import build, checks, compatibility, identity, schema
from everclip.errors import ConfigError
from everclip.runs.folder import RunFolder

Compose = Callable[..., DictConfig]
COMMANDS = {
    "": "3aadab7f",
    "method=zero_shot": "e5a46ab1",
    "method=finetune sequence=shapes_cil": "320e30df",
    "method=zscl sequence=shapes_mtil": "ba108880",
    "method=lora optimizer.lr=1e-4 train.epochs=3 max_sessions=2": "6f79d79b",
    "validation=0.2": "3199f2fa",
    "tags=[ablation,rank4] notes=why": "3aadab7f",
    "method=zero_shot sequence=shapes_retrieval": "9185398c",
    "sequence=folder sequence.root=/photos sequence.way=3": "24bccd24",
    "sequence=manifest sequence.file=/photos.csv": "d89602d5",
    "+experiment=cpe_clip/cub200": "fe337f61",
    "+experiment=codyra/xtail": "d352154c",
    "method=zscl backbone=vit_b16_openai sequence=mtil_order1 reference=imagenet_cc trainer.precision=32-true": (
        "5fee8e85"
    ),
    "method=rail backbone=vit_l14_openai sequence=few_shot sequence/dataset=dtd sequence.shots=4": "f9155336",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_same_command_always_means_the_same_folder(command: str, compose: Compose) -> None:
    assert identity.digest(compose(*command.split())) == COMMANDS[command]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("sequence=shapes_cil", "shapes_cil"),
        ("sequence=mtil_order1 sequence.name=mtil3", "mtil3"),
        ("sequence=few_shot sequence/dataset=dtd", "few_shot_dtd"),
        ("sequence=folder sequence.root=/somewhere/my_photos", "folder_my_photos"),
        ("sequence=folder sequence.root=/somewhere/my_photos/", "folder_my_photos"),
        ("sequence=folder sequence.root=/somewhere/my_photos sequence.name='my holidays'", "my_holidays"),
        ("sequence=manifest sequence.file=/somewhere/all.csv", "manifest_all"),
        ("sequence=folder", "folder"),
    ],
)
def test_a_sequence_has_a_name_of_its_own(words: str, name: str, compose: Compose) -> None:
    composed = compose(*shlex.split(words))
    assert identity.names_of(composed, composed.hydra)["sequence"] == name
    assert identity.run_folder(composed).parts[-5] == name


def test_a_run_of_ones_own_pictures_is_found_where_earlier_versions_put_it(compose: Compose) -> None:
    composed = compose("sequence=folder", "sequence.root=/somewhere/photos")
    now = identity.run_folder(composed)
    earlier = Path(str(now).replace("folder_photos", "folder"))
    earlier.mkdir(parents=True)
    (earlier / "run.json").touch()
    assert identity.run_folder(composed) == earlier


def test_a_part_that_moves_keeps_the_digest(compose: Compose) -> None:
    composed = compose("method=finetune")
    before = identity.digest(composed)
    composed.method._target_ = "everclip.methods.elsewhere.Finetune"
    assert identity.digest(composed) != before
    moves = {"everclip.methods.finetune.Finetune": "everclip.methods.elsewhere.Finetune"}
    with patch.dict(compatibility.MOVED, moves):
        assert identity.digest(composed) == before


def test_a_run_stored_before_a_part_moved_is_read(finished: Callable[..., RunFolder], tmp_path: Path) -> None:
    stored = finished("method=ncm").path
    (tmp_path / "checkpoints").symlink_to(stored / "checkpoints")
    text = (stored / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("everclip.methods.ncm.Ncm", "everclip.systems.ncm.Ncm"))
    with patch.dict(compatibility.MOVED, {"everclip.systems.ncm.Ncm": "everclip.methods.ncm.Ncm"}):
        assert type(everclip.load(tmp_path).method).__name__ == "Ncm"


def with_option(composed: DictConfig, value: object) -> DictConfig:
    """The configuration of a method to which the option `label_smoothing` was added later."""
    composed = composed.copy()
    with open_dict(composed):
        composed.method.label_smoothing = value
        composed.method._neutral_ = {"label_smoothing": 0.0}
    return composed


def test_an_added_option_counts_only_where_it_changes_something(compose: Compose) -> None:
    composed = compose("method=finetune")
    with open_dict(composed):
        del composed.method["label_smoothing"]
    before = identity.digest(composed)
    assert identity.digest(with_option(composed, 0.0)) == before
    assert identity.digest(with_option(composed, 0.1)) != before


def test_an_added_option_is_checked_and_built_like_any_other(compose: Compose, tiny: Callable[[], OpenClip]) -> None:
    method = with_option(compose("method=finetune"), 0.1).method
    checks.check_group("method", method)
    assert build.build("method", method, tiny()).label_smoothing == 0.1
    method._neutral_ = {"label_smothing": 0.0}
    with pytest.raises(ConfigError, match=r"method\.label_smothing is unknown; .* did you mean label_smoothing\?"):
        checks.check_group("method", method)


def test_parts_of_parts_may_have_added_options() -> None:
    part = {"_target_": "a.Part", "size": 3, "shear": 0, "_neutral_": {"shear": 0}}
    node = {"_target_": "a.Whole", "parts": [part, part | {"shear": 2}]}
    plain = {"_target_": "a.Part", "size": 3}
    assert compatibility.lasting(node) == {"_target_": "a.Whole", "parts": [plain, plain | {"shear": 2}]}
    assert compatibility.options(node)["parts"][0] == plain | {"shear": 0}


@dataclass
class Grown:
    """Shared keys to which some were added."""

    @dataclass
    class Inner:
        """A group of keys."""

        size: int = 1
        added: float | None = schema.added(schema.number(0.5, 0, 1), neutral=None)

    epochs: int = schema.number(5, 0)
    order: str = schema.added(schema.choice("shuffled", "shuffled", "sorted"), neutral="shuffled")
    inner: Inner = field(default_factory=Inner)


def test_an_added_shared_key_counts_only_where_it_changes_something() -> None:
    quiet = {"epochs": 5, "order": "shuffled", "inner": {"size": 1, "added": None}}
    assert compatibility.lasting_shared(Grown(), quiet) == {"epochs": 5, "inner": {"size": 1}}
    loud = {"epochs": 5, "order": "sorted", "inner": {"size": 1, "added": 0.5}}
    assert compatibility.lasting_shared(Grown(), loud) == loud


def test_the_number_of_sessions_follows_from_the_sequence(compose: Compose) -> None:
    composed = compose("method=dualprompt", "sequence=shapes_mtil")
    sequence, _, method = parts.make_parts(composed, load=False)
    assert len(method.keys.parts) == len(sequence.sessions) == 6
    assert OmegaConf.select(parts.settled(composed, sequence), "method.num_sessions") == 6
    assert composed.method.num_sessions is None
    composed.method.num_sessions = 8
    assert len(parts.make_parts(composed, load=False)[2].keys.parts) == 8
