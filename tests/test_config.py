from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from everclip.backbones.open_clip import OpenClip
from everclip.config import build, checks, identity, schema
from everclip.config.catalogue import option_names
from everclip.errors import ConfigError
from everclip.types import Positive

Compose = Callable[..., DictConfig]
GROUPS = [(group, name) for group in (*schema.GROUPS, "trainer", "logger", "paths") for name in option_names(group)]
REQUIRED = {
    "folder": ["sequence.root=x"],
    "manifest": ["sequence.file=x.csv"],
    "video_folder": ["sequence.root=x"],
    "video_retrieval_folder": ["sequence.root=x"],
    "video_grounding_folder": ["sequence.root=x"],
    "video_manifest": ["sequence.file=x.csv"],
    "dil_folder": ["sequence.root=x"],
    "retrieval_folder": ["sequence.root=x"],
    "ordering_table": ["sequence.file=x.csv", "sequence.test_file=y.csv"],
    "from_run": ["backbone.run=x"],
    "long_clip_b": ["backbone.weights=x.pt"],
    "long_clip_l": ["backbone.weights=x.pt"],
    "file": ["backbone.model=x.json", "backbone.weights=random"],
}
EXPERIMENTS = sorted(
    str(path.relative_to(schema.conf_dir() / "experiment").with_suffix(""))
    for path in (schema.conf_dir() / "experiment").rglob("*.yaml")
)


@pytest.mark.parametrize(("group", "name"), GROUPS)
def test_every_option_composes_and_fits_its_constructor(group: str, name: str, compose: Compose) -> None:
    composed = compose(f"{group}={name}", *REQUIRED.get(name, ()))
    checks.check_values(composed)
    for member in schema.GROUPS:
        checks.check_group(member, composed[member])


# Split (None: the data set's default) and order of class-incremental experiments, read in their official repositories.
PUBLISHED_CLASSES = {
    "coda_prompt/cil_cifar100": (None, "identity"),
    "coda_prompt/cil_imagenet_r": ("coda", "identity"),
    "dualprompt/cil_cifar100": (None, "identity"),
    "dualprompt/cil_imagenet_r": (None, "identity"),
    "l2p/cil_cifar100": (None, "identity"),
    "zero_shot/cil_cifar100": ("continual_clip", "icarl_cifar100"),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes(name: str, compose: Compose) -> None:
    composed = compose(f"+experiment={name}")
    for member in schema.GROUPS:
        checks.check_group(member, composed[member])
    if name.partition("/")[2].startswith("cil_"):
        sequence = composed.sequence
        assert (OmegaConf.select(sequence, "dataset.split"), sequence.class_order) == PUBLISHED_CLASSES[name]
    budget = composed.train
    assert budget.max_steps is None or budget.epochs >= budget.max_steps  # so that few pictures get as many steps


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("+train.epoch=3", "train.epoch is unknown; .*did you mean epochs"),
        ("+trainer.max_epochs=3", "trainer.max_epochs is unknown; .*did you mean train.epochs"),
        ("+callbacks=default", r"callbacks is unknown; there are: seed, [^;]*$"),
        ("+new.key=1", r"new is unknown; there are: seed, [^;]*$"),
        ("+logger.wandb.tag_list=[a]", "logger.wandb.tag_list is unknown; there are: enabled"),
        ("+paths.temporary=x", "paths.temporary is unknown"),
        ("++train.base.shots=1", "train.base.shots is unknown"),
    ],
)
def test_a_key_that_nothing_reads_is_refused(word: str, hint: str, compose: Compose) -> None:
    with pytest.raises(ConfigError, match=hint):
        checks.check_values(compose(word))


ZSCL_ON_DOMAINS = {
    "optimizer._target_": "torch.optim.AdamW", "optimizer.lr": 1e-5,
    "optimizer.weight_decay": 0, "scheduler.decay": "cosine", "scheduler.warmup": 100, "scheduler.length": 1000,
    "train.max_steps": 1001, "train.batch_size": 64, "train.augment": "crop", "method.label_smoothing": 0.2,
    "method.session_lr": {"fgvc_aircraft": 5e-5, "mnist": 5e-5},
}  # fmt: skip
ZSCL_ON_CLASSES = {
    "optimizer.lr": 7.1e-6, "optimizer.weight_decay": 0, "scheduler.warmup": 30,
    "scheduler.length": None, "train.epochs": 1, "train.max_steps": None, "train.batch_size": 64,
    "train.augment": "crop", "method.label_smoothing": 0.2, "method.image_weight": 5, "method.text_weight": 5,
    "sequence.templates": ["a bad photo of a {}."],
}  # fmt: skip
ZSCLS_CLASSES: dict[str, dict[str, Any]] = {
    "cifar100": {"sequence.dataset.split": "continual_clip", "sequence.class_order": "icarl_cifar100"},
    "tinyimagenet": {"sequence.dataset.split": None, "sequence.class_order": "zscl_tinyimagenet"},
}
CODYRA = {
    "optimizer._target_": "torch.optim.AdamW", "optimizer.lr": 5e-4, "optimizer.betas": [0.9, 0.9999],
    "optimizer.weight_decay": 0, "scheduler.decay": "cosine", "scheduler.warmup": 0, "train.max_steps": 500,
    "train.batch_size": 64, "train.augment": "crop", "method.rank": 16, "method.kappa_max": 0.005,
    "method.kappa_steps": 50, "method.dense": 0.5,
}  # fmt: skip
CODA_PROMPT = {
    "optimizer.lr": 1e-3, "optimizer.weight_decay": 0,
    "scheduler.decay": "quarter_cosine", "scheduler.interval": "epoch", "train.batch_size": 128,
    "train.augment": "crop_flip", "method.pool": 100, "method.length": 8, "method.ortho_weight": 0,
    "method.head": "linear",
}  # fmt: skip


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        *(
            (f"method={method} backbone=vit_b16_openai sequence=mtil_order{i}", ZSCL_ON_DOMAINS)
            for method in ("lwf", "vr_lwf", "wise_ft", "icarl")
            for i in (1, 2)
        ),
        *(
            (
                f"method=zscl backbone=vit_b16_openai sequence={name}",
                ZSCL_ON_DOMAINS | {"method.average_every": 100, "method.constraint_weight": 1},
            )
            for name in ("mtil_order1", "mtil_order2", "xtail")
        ),
        *((f"+experiment=finetune/mtil_order{i}", ZSCL_ON_DOMAINS | {"method.alpha": 1}) for i in (1, 2)),
        ("+experiment=icarl/xtail", ZSCL_ON_DOMAINS),
        *(
            (f"method=vr_lwf backbone=vit_b16_openai sequence=cil_{name}", ZSCL_ON_CLASSES | classes)
            for name, classes in ZSCLS_CLASSES.items()
        ),
        *(
            (
                f"method=zscl backbone=vit_b16_openai sequence=cil_{name}",
                ZSCL_ON_CLASSES | classes | {"method.average_every": 10, "method.constraint_weight": 0},
            )
            for name, classes in ZSCLS_CLASSES.items()
        ),
        ("+experiment=codyra/xtail", CODYRA | {"sequence.shots": 16}),
        ("+experiment=codyra/mtil_order1", CODYRA | {"sequence.shots": 5}),
        ("+experiment=coda_prompt/cil_cifar100", CODA_PROMPT | {"train.epochs": 20}),
        ("+experiment=coda_prompt/cil_imagenet_r", CODA_PROMPT | {"train.epochs": 50}),
    ],
)
def test_published_protocols_have_the_papers_settings(command: str, settings: dict[str, Any], compose: Compose) -> None:
    composed = compose(*command.split())
    found = {key: OmegaConf.select(composed, key) for key in settings}
    assert found == settings


@pytest.mark.parametrize("name", ["cifar100", "miniimagenet", "cub200"])
def test_cpe_clips_experiments_have_the_papers_settings(name: str, compose: Compose) -> None:
    composed = compose(f"+experiment=cpe_clip/{name}")
    chosen = identity.choices(composed.hydra)
    assert (chosen["backbone"], chosen["sequence"]) == ("vit_b16_openai", f"fscil_{name}")
    base = (6, 4) if name == "cub200" else (5, 32)
    assert (composed.train.base.epochs, composed.train.base.batch_size) == base
    assert (composed.train.epochs, composed.train.batch_size) == (5, 4)
    assert composed.method.logit_scale == 100
    assert composed.optimizer == {
        "_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-5,
    }  # fmt: skip


def test_what_the_user_says_wins_over_method_and_tuning(compose: Compose) -> None:
    assert (compose("method=lora").optimizer.lr, compose("method=lora").train.batch_size) == (3e-3, 8)  # tuned
    composed = compose("method.logit_scale=5", "optimizer=adamw", "train.base.epochs=1")
    assert composed.method.logit_scale == 5
    assert composed.optimizer._target_ == "torch.optim.AdamW"
    assert composed.train.base.epochs == 1


@pytest.mark.parametrize(
    ("command", "lr", "logit_scale"),
    [
        pytest.param("method=zscl sequence=shapes_fscil backbone=vit_b16_openai", 1e-5, None, id="published"),
        pytest.param("method=zscl sequence=folder sequence.root=x backbone=tiny", 3e-4, None, id="backbone"),
        pytest.param("method=zscl sequence=mtil_order1 backbone=tiny", 1e-5, None, id="sequence before backbone"),
        pytest.param("method=zscl sequence=mtil_order1 backbone=tiny optimizer.lr=1", 1, None, id="user"),
        pytest.param("method=cpe_clip sequence=folder sequence.root=x", 0.1, None, id="own logit scale"),
        pytest.param("method=cpe_clip sequence=folder sequence.root=x backbone=vit_b16_openai", 0.1, 100, id="OpenAI"),
    ],
)
def test_a_setting_comes_from_what_needs_it(
    command: str, lr: float, logit_scale: float | None, compose: Compose
) -> None:
    composed = compose(*command.split())
    assert (composed.optimizer.lr, composed.method.get("logit_scale")) == (lr, logit_scale)


def test_every_tuning_is_of_a_method_and_of_a_backbone_or_a_sequence() -> None:
    places = {*option_names("backbone"), *option_names("sequence")}
    for path in (schema.conf_dir() / "tuning").rglob("*.yaml"):
        assert path.parent.name in {*option_names("method"), "budget"}, path
        assert path.stem in places, path
    assert not set(option_names("backbone")) & set(option_names("sequence"))  # one folder holds both


@dataclass
class Inner:
    """A part built from a node of its own."""

    size: Positive


@dataclass
class Outer:
    """Something made of a part."""

    inner: Inner
    factor: float = 1.0


def test_parts_are_checked_and_built_from_their_own_nodes() -> None:
    here = __name__
    node = OmegaConf.create(
        {"_target_": f"{here}.Outer", "inner": {"_target_": f"{here}.Inner", "size": 3}, "factor": 2}
    )
    checks.check_group("outer", node)
    assert build.build("outer", node) == Outer(Inner(3), 2)
    node.inner.size = 0
    with pytest.raises(ConfigError, match=r"outer\.inner\.size=0: input should be greater than or equal to 1"):
        checks.check_group("outer", node)
    node.inner = {"_target_": f"{here}.Inner", "sise": 1}
    with pytest.raises(ConfigError, match=r"outer\.inner\.sise is unknown; there are: size; did you mean size\?"):
        checks.check_group("outer", node)
    node.inner = {"_target_": f"{here}.Inner"}
    with pytest.raises(ConfigError, match=r"outer\.inner\.size is required"):
        checks.check_group("outer", node)


def refuse(**arguments: Any) -> None:
    raise ValueError("one value does not fit another")


def test_what_a_nested_part_refuses_is_a_setting_that_cannot_be() -> None:
    part = {"_target_": f"{__name__}.refuse"}
    for node in (part, {"_target_": f"{__name__}.Outer", "inner": part}):
        with pytest.raises(ConfigError, match="outer: one value does not fit another"):
            build.build("outer", OmegaConf.create(node))


@dataclass
class Chain:
    """Something made of a list of parts."""

    links: Sequence[Inner]


def test_building_a_part_that_points_to_another_changes_neither(compose: Compose, tiny: Callable[[], OpenClip]) -> None:
    composed = compose("method=zscl")
    before = identity.digest(composed)
    build.build("method", composed.method, tiny())
    assert OmegaConf.is_interpolation(composed.reference, "cache_dir")
    assert identity.digest(composed) == before


def test_lists_of_parts_are_checked_and_built_one_by_one() -> None:
    link = {"_target_": f"{__name__}.Inner", "size": 3}
    node = OmegaConf.create({"_target_": f"{__name__}.Chain", "links": [link, link | {"size": 4}]})
    checks.check_group("chain", node)
    assert build.build("chain", node) == Chain([Inner(3), Inner(4)])
    node.links[1].size = 0
    with pytest.raises(ConfigError, match=r"chain\.links\[1\]\.size=0: input should be greater than or equal to 1"):
        checks.check_group("chain", node)


def test_a_target_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match=r"method\._target_=everclip\.methods\.nowhere\.Method cannot be imported"):
        checks.check_group("method", OmegaConf.create({"_target_": "everclip.methods.nowhere.Method"}))


def test_values_that_no_computation_can_use_are_refused(compose: Compose) -> None:
    composed = compose("method=rail", "scheduler=cosine")
    checks.check_values(composed)
    for key in ("validation", "train.gradient_clip", "optimizer.lr", "method.gamma"):
        for value in (float("nan"), float("inf")):
            changed = composed.copy()
            OmegaConf.update(changed, key, value)
            with pytest.raises(ConfigError, match=rf"^{key}={value}: must be"):
                checks.check_values(changed)
    OmegaConf.update(composed, "sequence.templates", [])
    with pytest.raises(ConfigError, match=r"sequence\.templates=\[\]: .* at least 1 item"):
        checks.check_group("sequence", composed.sequence)


def test_devices_are_a_number_or_a_list(compose: Compose) -> None:
    composed = compose()
    for devices in (1, 4, -1, "auto", "2", "0,1", [0], [2, 3]):
        composed.trainer.devices = devices
        checks.check_values(composed)
    for devices in ("abc", 0, -2, 1.5, True, [], ["a"], "", None, "²"):
        composed.trainer.devices = devices
        with pytest.raises(ConfigError, match=r"trainer\.devices=.*: must be a number of devices"):
            checks.check_values(composed)
