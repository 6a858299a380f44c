"""What a run has adapted, as plain weights: the backbone of the next run, or of another program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from everclip.backbones.base import Backbone
from everclip.backbones.open_clip import OpenClip
from everclip.commands.load import checkpoint_of, load_checkpoint, read_config
from everclip.config.build import build
from everclip.digest import state_sha256
from everclip.errors import ConfigError
from everclip.methods.base import Method
from everclip.modules.lora import fold
from everclip.runs.folder import RunFolder


def from_run(*, run: str, session: int = -1, load: bool = True) -> OpenClip:
    """The backbone of a finished run as its method left it, frozen.

    Args:
        run: the run's folder.
        session: index; negative ones count from the last.
        load: False builds the model on the meta device, without storage.

    Raises:
        MissingError: no such run, session or weights.
        ConfigError: the run is not finished, names code that is not Everclip's, or its method is more than weights of
            the towers.
    """
    folder = RunFolder(Path(run))
    path = checkpoint_of(folder.path, session)
    if folder.state != "finished":
        state = folder.state or "no run"
        raise ConfigError(f"backbone.run={run} is not finished ({state}); the command that began it goes on with it")
    if load:
        return folded(load_checkpoint(path).method, path)
    config = read_config(path)
    return folded(build("method", config.method, build("backbone", config.backbone, load=False)), path)


def folded(method: Method, path: Path, *, trust: Sequence[str] = ()) -> OpenClip:
    """The backbone of a method, made plain weights in place, frozen; it encodes as the method does.

    Args:
        method: of the checkpoint.
        path: of the checkpoint, in its run's folder.
        trust: see `everclip.load`.

    Raises:
        ConfigError: the method is more than weights of the towers; says by what.
    """
    name, backbone = type(method).__name__, method.backbone
    if not isinstance(backbone, OpenClip):
        raise ConfigError(f"{type(backbone).__name__} is no backbone of open_clip, whose form the weights are given")
    if hooks := method.outside_towers():
        raise ConfigError(
            f"{name} cannot be folded into weights: it has more than those of the towers in {', '.join(hooks)}"
        )
    fold(backbone)
    original = build("backbone", read_config(path, trust=trust).backbone, load=False)
    if added := backbone.state_dict().keys() ^ original.state_dict().keys():
        raise ConfigError(f"{name} cannot be folded into weights: it changes the model's parts, as {min(added)}")
    backbone.requires_grad_(False)
    source = source_of(backbone, path)
    backbone.provenance |= source
    if source["source_sha256"] is not None:
        backbone.provenance["sha256"] = state_sha256(backbone.model.state_dict())
    return backbone


def source_of(backbone: Backbone, path: Path) -> dict[str, Any]:
    """Where a model comes from that the run of a checkpoint has adapted: no longer the weights that were loaded."""
    run = RunFolder(path.parents[1]).read_run()
    return {
        "sha256": None,
        "source_sha256": backbone.provenance["sha256"],
        "source_session": int(path.stem.removeprefix("session_")),
        **{f"source_{fact}": run.get(fact) for fact in ("method", "sequence", "digest", "seed")},
    }
