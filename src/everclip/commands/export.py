"""The command `everclip-export`: what a run has adapted, as a checkpoint that other programs load."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from everclip.commands.arguments import Parser
from everclip.errors import ConfigError, EverclipError
from everclip.reporting.console import quieten_libraries, tell_error

TOLERANCE = 1e-4  # of features of length 1: open_clip computes them in another order
FORMS = ("open_clip", "huggingface")


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `everclip-export`; returns the exit code."""
    parser = Parser(
        prog="everclip-export",
        description="Writes what a run has adapted as weights and configuration with a model card, for open_clip, "
        'open_clip.create_model_and_transforms("local-dir:DIR"), or for transformers, '
        'CLIPModel.from_pretrained("DIR"). Refuses methods that are more than weights of the two towers.',
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
    sys.stdout.write(f"largest difference of features in open_clip {difference:.1e}\n{folder.absolute()}\n")
    return 0


def export(run: Path, session: int, output: Path | None, trust: list[str], form: str = FORMS[0]) -> tuple[Path, float]:
    """Writes the checkpoint and loads it with open_clip; gives its folder and the largest feature difference.

    Raises:
        ConfigError: the method is more than weights, the architecture has no such form, or the features of what was
            written differ from the method's.
    """
    import torch

    from everclip import storage
    from everclip.backbones.huggingface_dir import huggingface_dir, read_features
    from everclip.backbones.local_dir import local_dir, plain_features
    from everclip.commands.from_run import folded
    from everclip.commands.load import checkpoint_of, load_checkpoint

    quieten_libraries()
    path = checkpoint_of(run, session)
    write, features = (local_dir, plain_features) if form == FORMS[0] else (huggingface_dir, read_features)
    folder = output or run / "export" / (path.stem if form == FORMS[0] else f"{path.stem}_{form}")
    model = load_checkpoint(path, trust=trust)
    side = model.backbone.image_size
    images = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0))
    texts = model.classes.prompts(model.classes.templates[0])[:8] or ["a photo"]
    with torch.no_grad():
        expected = model.method.encode_image(images), model.method.encode_text(texts)
    backbone = folded(model.method, path, trust=trust)
    files = write(backbone)
    for name, content in files.items():
        storage.write_bytes(folder / name, content)
    if hasattr(backbone.tokenizer, "save_pretrained"):  # one of Hugging Face, which open_clip looks for in the folder
        backbone.tokenizer.save_pretrained(folder)
    found = features(folder, images, texts)
    difference = max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True))
    if difference > TOLERANCE:
        for name in files:
            (folder / name).unlink()
        raise ConfigError(
            f"{type(model.method).__name__} cannot be folded into weights: features differ by {difference:.1e} from "
            "those of the weights alone; it acts outside the towers without saying so (Method.outside_towers)"
        )
    storage.write_text(folder / "README.md", _card(path, backbone.provenance, form))
    return folder, difference


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
