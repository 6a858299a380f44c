"""Random override lists end in a clean refusal or in a valid configuration, never in anything else."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from everclip.commands import run as cli
from everclip.config import build, checks, identity, schema

LISTS = int(os.environ.get("EVERCLIP_FUZZ", "100"))  # `make chaos` sets 2000
# Downloads and data sets are out of reach here; what names them is composed, but not built.
VALUES = (
    "0", "1", "-1", "5", "1.5", "-0.0", "1e-3", "1e308", "1e999", "nan", "inf", "-inf", "9" * 30, "null", "true", "yes",
    "''", "' '", "abc", "[1,2]", "[]", "{a:1}", "{}", "[[[]]]", "??? ", "'${seed}'", "${seed}", "${nowhere}", "'${'",
    "${oc.env:NOWHERE}", "${run_folder:}", "é", "日本", "a/b", "../x", "'a b'", "a b", "\\", "\\'", "\"", "(", ")", "{",
    "[", "a,b", "1,2", "range(1,3)", "choice(a,b)", "glob(*)", "int(3)", "str(", "$", "@", "0x10", "1_000", "a" * 3000,
    "everclip.commands.run.main",
    "builtins.eval", "os.system", "torch.optim.Adam", "None", "{_target_:os.system}", "1:2",
)  # fmt: skip
ODD = (
    "", "=", "==", "a", "+", "~", "++", "+=1", "~method", "~train.epochs", "method", "method=", "=method", "a=b=c",
    "method@x=ncm", "+method=ncm", "++method.x=1", "+x=1", "hydra=1", "hydra.run.dir=null", "seed =1", "seed= 1", "[",
    "train=null", "train=5", "train=[]", "paths=null", "logger=null", "method=null", "sequence=[a]", "optimizer={}",
    "method=../run", "method=/etc/passwd", "trainer=cpu,gpu", "hydra/launcher=joblib", "hydra/nowhere=x", "a.b.c=1",
    "data=null", "checkpoint=null", "train.base=null", "logger.wandb=null", "~paths", "~trainer", "~sequence", "~seed",
)  # fmt: skip


def options() -> dict[str, list[str]]:
    """Groups and their options."""
    groups: dict[str, list[str]] = {}
    for path in sorted(schema.conf_dir().rglob("*.yaml")):
        group, _, inside = path.relative_to(schema.conf_dir()).parent.as_posix().partition("/")
        if group == "experiment":
            groups.setdefault("+experiment", []).append(f"{inside}/{path.stem}")
        elif group not in (".", "hydra"):
            groups.setdefault(f"{group}/{inside}".rstrip("/"), []).append(path.stem)
    return groups


def keys() -> list[str]:
    """Keys of the schema and of every group's options."""
    found: list[str] = []

    def walk(node: object, prefix: str) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                found.append(f"{prefix}{name}")
                walk(value, f"{prefix}{name}.")

    walk(OmegaConf.to_container(OmegaConf.structured(schema.RunConfig)), "")
    for group, names in options().items():
        for name in () if group == "+experiment" else names:
            content = yaml.safe_load((schema.conf_dir() / group / f"{name}.yaml").read_text())
            walk(content, f"{group.replace('/', '.')}.")
    return sorted({key for key in found if "defaults" not in key})


def draw(dice: random.Random, groups: dict[str, list[str]], names: list[str]) -> list[str]:
    """One to four overrides."""
    words = []
    for _ in range(dice.randint(1, 4)):
        kind = dice.random()
        key = dice.choice(names)
        if kind < 0.5:
            kind_of_group = dice.choice(
                sorted({group.partition("/")[0] for group in groups})
            )  # each method has a tuning
            group = dice.choice([group for group in groups if group.partition("/")[0] == kind_of_group])
            word = f"{group}={dice.choice(groups[group])}"
        elif kind < 0.75:
            word = f"{dice.choice(('', '', '', '+', '++', '~'))}{key}={dice.choice(VALUES)}"
        elif kind < 0.85:
            position = dice.randrange(len(key))
            misspelt = key[:position] + dice.choice("abz._-@ /=é") + key[position + dice.randint(0, 1) :]
            word = f"{misspelt}={dice.choice(VALUES)}"
        elif kind < 0.95:
            word = dice.choice(ODD)
        else:
            word = "".join(chr(dice.choice((dice.randrange(32, 127), dice.randrange(160, 9000)))) for _ in range(12))
        words.append(word)
    return words


def composed(words: list[str], place: Path) -> DictConfig:
    """What a command composes and checks before it builds anything."""
    whole = compose("run", [f"paths.outputs={place}", *words], return_hydra_config=True)
    hydra = whole.hydra
    with open_dict(whole):
        whole.hydra.runtime.output_dir = str(place)
        identity.run_folder(whole)
        del whole["hydra"]
    checks.check_values(whole)
    identity.choices(hydra)
    for group in schema.GROUPS:
        checks.check_group(group, whole[group])
    identity.digest(whole)
    return whole


@pytest.fixture
def _hydra() -> Iterator[None]:
    build.register()
    with initialize_config_dir(str(schema.conf_dir()), version_base="1.3"):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("_hydra")
def test_every_list_is_refused_cleanly_or_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dice, groups, names = random.Random(1), options(), keys()
    valid, unclean = 0, list[str]()
    for _ in range(LISTS):
        words = draw(dice, groups, names)
        try:
            composed(words, tmp_path)
        except Exception as error:  # noqa: BLE001 (as the command does)
            code = cli.show_error(error)
            message = capsys.readouterr().err
            if code != 2 or message.strip() == "everclip:" or len(message.splitlines()) > 3:
                unclean.append(f"{words}: exit code {code}, {message[:300]}")
        else:
            valid += 1
    assert not unclean, "\n".join(unclean)
    assert 0.05 * LISTS < valid < 0.9 * LISTS  # of both kinds there are enough
