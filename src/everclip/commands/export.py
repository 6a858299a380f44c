"""The command `everclip-export`: what a run has adapted, as a checkpoint that open_clip alone loads."""

from __future__ import annotations

import sys
from pathlib import Path

from everclip.commands.arguments import Parser
from everclip.errors import ConfigError, EverclipError
from everclip.reporting.console import quieten_libraries, tell_error

TOLERANCE = 1e-4  # of features of length 1: open_clip computes them in another order


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `everclip-export`; returns the exit code."""
    parser = Parser(
        prog="everclip-export",
        description="Writes what a run has adapted as weights and configuration that open_clip alone loads, "
        'open_clip.create_model_and_transforms("local-dir:DIR"). Refuses methods that are more than weights of the '
        "two towers.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("--session", type=int, default=-1, metavar="K", help="default: the last stored")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: RUN/export/session_KK")
    parser.add_argument("--trust", nargs="+", default=[], metavar="PACKAGE", help="with methods of your own to import")
    options = parser.parse_args(arguments)
    try:
        folder, difference = export(options.run, options.session, options.output, options.trust)
    except EverclipError as error:
        tell_error("everclip-export", error)
        return error.exit_code
    sys.stdout.write(f"largest difference of features in open_clip {difference:.1e}\n{folder.absolute()}\n")
    return 0


def export(run: Path, session: int, output: Path | None, trust: list[str]) -> tuple[Path, float]:
    """Writes the checkpoint and loads it with open_clip alone; gives its folder and the largest feature difference.

    Raises:
        ConfigError: the method is more than weights, or plain open_clip's features differ from the method's.
    """
    import torch

    from everclip import storage
    from everclip.backbones.local_dir import local_dir, plain_features
    from everclip.commands.from_run import folded
    from everclip.commands.load import checkpoint_of, load_checkpoint

    quieten_libraries()
    path = checkpoint_of(run, session)
    folder = output or run / "export" / path.stem
    model = load_checkpoint(path, trust=trust)
    side = model.backbone.image_size
    images = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0))
    texts = model.classes.prompts(model.classes.templates[0])[:8] or ["a photo"]
    with torch.no_grad():
        expected = model.method.encode_image(images), model.method.encode_text(texts)
    backbone = folded(model.method, path, trust=trust)
    files = local_dir(backbone)
    for name, content in files.items():
        storage.write_bytes(folder / name, content)
    if hasattr(backbone.tokenizer, "save_pretrained"):  # one of Hugging Face, which open_clip looks for in the folder
        backbone.tokenizer.save_pretrained(folder)
    found = plain_features(folder, images, texts)
    difference = max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True))
    if difference > TOLERANCE:
        for name in files:
            (folder / name).unlink()
        raise ConfigError(
            f"{type(model.method).__name__} cannot be folded into weights: features differ by {difference:.1e} from "
            "those of the weights alone; it acts outside the towers without saying so (Method.outside_towers)"
        )
    return folder, difference


if __name__ == "__main__":
    sys.exit(main())
