"""The command `everclip-export`: what a run has adapted, as a checkpoint that other programs load."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everclip.commands.arguments import Parser
from everclip.errors import ConfigError, EverclipError
from everclip.reporting.console import quieten_libraries, tell_error

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 1e-4  # of features of length 1: open_clip computes them in another order
MAIN = {"open_clip": "open_clip_config.json", "huggingface": "config.json", "onnx": "model.onnx"}  # in every export
FORMS = tuple(MAIN)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `everclip-export`; returns the exit code."""
    parser = Parser(
        prog="everclip-export",
        description="Writes what a run has adapted as weights and configuration with a model card, for open_clip, "
        'open_clip.create_model_and_transforms("local-dir:DIR"), or for transformers, '
        'CLIPModel.from_pretrained("DIR"), which refuse methods that are more than weights of the two towers; or all '
        "that it makes of pictures as a graph for ONNX Runtime, with whatever its method adds.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("--session", type=int, default=-1, metavar="K", help="default: the last stored")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: RUN/export/session_KK[_FORM]")
    parser.add_argument("--format", choices=FORMS, default=FORMS[0], help="of the folder; default: %(default)s")
    parser.add_argument("--trust", nargs="+", default=[], metavar="PACKAGE", help="with methods of your own to import")
    options = parser.parse_args(arguments)
    try:
        folder, difference = export(options.run, options.session, options.output, options.trust, options.format)
    except EverclipError as error:
        tell_error("everclip-export", error)
        return error.exit_code
    sys.stdout.write(f"largest difference from what the run's model computes {difference:.1e}\n{folder.absolute()}\n")
    return 0


@dataclass(frozen=True)
class Written:
    """A model in some form.

    Attributes:
        files: contents by name.
        expected: what the run's model makes of some input.
        read: what that form of it makes of the same, from its folder.
        provenance: of the model.
        differs: what to say where these differ by `{}`.
    """

    files: dict[str, bytes]
    expected: tuple[Tensor, ...]
    read: Callable[[Path], tuple[Tensor, ...]]
    provenance: dict[str, Any]
    differs: str


def export(run: Path, session: int, output: Path | None, trust: list[str], form: str = FORMS[0]) -> tuple[Path, float]:
    """Writes the model and reads it back; gives its folder and the largest difference of features or probabilities.

    An earlier export is replaced.

    Raises:
        ConfigError: the place is taken, the method is more than weights, or no graph, the architecture has no such
            form, or what was written computes something else than the run's model.
        MissingError: no such run, session or weights, or what the form needs is not installed.
    """
    import torch

    from everclip import storage
    from everclip.commands.load import checkpoint_of
    from everclip.commands.onnx_graph import require_onnx

    quieten_libraries()
    path = checkpoint_of(run, session)
    folder = output or run / "export" / (path.stem if form == FORMS[0] else f"{path.stem}_{form}")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output {folder}: is a file; an export is a folder")
    if output is not None and folder.is_dir() and any(folder.iterdir()) and not (folder / MAIN[form]).is_file():
        raise ConfigError(f"--output {folder}: holds something else than an earlier export; give a folder of its own")
    if form == "onnx":
        require_onnx()
        written = _as_graph(path, trust)
    else:
        written = _as_weights(path, trust, form)
    for name, content in written.files.items():
        storage.write_bytes(folder / name, content)
    found = written.read(folder)
    parts = [(a - b).abs().max() for a, b in zip(written.expected, found, strict=True)]
    difference = float(torch.stack(parts).max())  # not a number, if a part of it is
    if not difference <= TOLERANCE:
        for name in written.files:
            (folder / name).unlink()
        raise ConfigError(written.differs.format(f"{difference:.1e}"))
    storage.write_text(folder / "README.md", _card(path, written.provenance, form))
    return folder, difference


def _as_weights(path: Path, trust: list[str], form: str) -> Written:
    """The two towers, for open_clip or transformers."""
    import torch

    from everclip.backbones.huggingface_dir import huggingface_dir, read_features
    from everclip.backbones.local_dir import local_dir, plain_features
    from everclip.commands.from_run import folded
    from everclip.commands.load import load_checkpoint

    write, features = (local_dir, plain_features) if form == FORMS[0] else (huggingface_dir, read_features)
    model = load_checkpoint(path, trust=trust)
    side = model.backbone.image_size
    images = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0))
    texts = model.classes.prompts(model.classes.templates[0])[:8] or ["a photo"]
    with torch.no_grad():
        expected = model.method.encode_image(images), model.method.encode_text(texts)
    backbone = folded(model.method, path, trust=trust)

    def read(folder: Path) -> tuple[Tensor, ...]:
        if hasattr(backbone.tokenizer, "save_pretrained"):  # one of Hugging Face, which open_clip looks for there
            backbone.tokenizer.save_pretrained(folder)
        return features(folder, images, texts)

    reason = (
        f"{type(model.method).__name__} cannot be folded into weights: features differ by {{}} from those of the "
        "weights alone; it acts outside the towers without saying so (Method.outside_towers)"
    )
    return Written(write(backbone), expected, read, backbone.provenance, reason)


def _as_graph(path: Path, trust: list[str]) -> Written:
    """All that the model makes of pictures, for ONNX Runtime."""
    import torch

    from everclip.commands.from_run import source_of
    from everclip.commands.load import load_checkpoint
    from everclip.commands.onnx_graph import Graph, graph_outputs, onnx_dir

    model = load_checkpoint(path, trust=trust)
    side = model.backbone.image_size
    pixels = torch.randint(256, (5, 3, side, side), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    expected = Graph(model)(pixels)
    model.backbone.provenance |= source_of(model.backbone, path)

    def read(folder: Path) -> tuple[Tensor, ...]:
        """Of all but the first at once, and of the first by itself."""
        parts = zip(*(graph_outputs(folder, part) for part in (pixels[:1], pixels[1:])), strict=True)
        return tuple(map(torch.cat, parts))

    reason = f"{type(model.method).__name__} is no graph of ONNX: features or probabilities differ by {{}} from torch's"
    return Written(onnx_dir(model, pixels[:3]), expected, read, model.backbone.provenance, reason)


def _card(path: Path, provenance: dict[str, Any], form: str) -> str:
    """The model card for the model of a checkpoint."""
    import open_clip

    from everclip.reporting.model_card import model_card
    from everclip.runs.folder import RunFolder

    folder, session = RunFolder(path.parents[1]), int(path.stem.removeprefix("session_"))
    records = folder.read_sessions()
    record = records[session] if session < len(records) else {}
    summary = folder.read_summary() if session == len(records) - 1 else {}
    published = open_clip.get_pretrained_cfg(provenance["model"], provenance["tag"] or "")
    base = str(published.get("hf_hub") or "").strip("/")
    return model_card(folder.read_run(), record, summary, provenance, form, base or None)


if __name__ == "__main__":
    sys.exit(main())
