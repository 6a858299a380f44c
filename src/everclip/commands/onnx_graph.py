"""A stored model as one ONNX graph, from pictures to features and probabilities, for programs without torch."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from everclip.backbones.open_clip import OpenClip
from everclip.commands.load import AdaptedModel
from everclip.errors import ConfigError, MissingError

FILE = "model.onnx"  # what one file cannot hold of the weights (2 GiB) is written beside it
INPUT, OUTPUTS = "pixels", ("features", "probabilities")


class Graph(nn.Module):
    """All that a model makes of pictures; what it makes of the texts of its classes is computed here, once."""

    @torch.no_grad()
    def __init__(self, model: AdaptedModel) -> None:
        super().__init__()
        self.method = model.method
        self._classify = model.method.classifier(model.classes) if len(model.classes) else None

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Features (B, E) of length 1 of pictures (B, 3, S, S) uint8; if classes were seen, also probabilities (B, C).

        They are those of `AdaptedModel.encode_image` and `AdaptedModel.classify`.
        """
        images = self.method.backbone.normalize(pixels)
        features = self.method.encode_image(images)
        return (features,) if self._classify is None else (features, self._classify(images).softmax(dim=-1))


def require_onnx() -> None:
    """Looks for what writes and runs graphs.

    Raises:
        MissingError: it is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingError("--format onnx needs ONNX and its runtime: pip install 'everclip[onnx]'") from error


def onnx_dir(model: AdaptedModel, pixels: Tensor) -> dict[str, bytes]:
    """The content of the folder's files, by name: a graph for any number of pictures.

    Classes, preparation of pictures and provenance are JSON in the metadata of the graph.

    Args:
        model: of open_clip.
        pixels: (B, 3, S, S) uint8, at least two, to follow through it.

    Raises:
        ConfigError: what the method does depends on the pictures, or on their number, in a way that no graph has.
    """
    name, backbone = type(model.method).__name__, model.backbone
    if not isinstance(backbone, OpenClip):
        raise ConfigError(f"{type(backbone).__name__} is no backbone of open_clip, whose preparation is written down")
    try:
        with _quiet():
            program: Any = torch.onnx.export(
                Graph(model).eval(), (pixels,), dynamo=True, verbose=False, input_names=[INPUT],
                output_names=OUTPUTS[: 2 if len(model.classes) else 1],
                dynamic_shapes=({0: torch.export.Dim("pictures")},),
            )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        raise ConfigError(
            f"{name} is no graph of ONNX: its code reads values of tensors, or does what ONNX cannot"
        ) from error
    if isinstance(program.model.graph.inputs[0].shape[0], int):
        raise ConfigError(f"{name} is no graph of ONNX: what it computes depends on how many pictures come")
    prepared = backbone.preprocess
    facts = {
        "classes": model.classes.names,
        "preprocess": {
            "size": backbone.image_size,
            "resize_mode": prepared.resize_mode,
            "interpolation": prepared.interpolation,
            "fill_color": prepared.fill_color,
        },
        "everclip": backbone.provenance,
    }
    program.model.metadata_props.update({key: json.dumps(value) for key, value in facts.items()})
    with TemporaryDirectory() as folder:
        program.save(Path(folder) / FILE)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, nothing is heard of what torch says of its exporter, and prints of graphs that it cannot follow."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            yield
    finally:
        logging.disable(before)


def graph_outputs(folder: Path, pixels: Tensor) -> tuple[Tensor, ...]:
    """What ONNX Runtime makes of pictures (B, 3, S, S) uint8 by such a folder's graph, see `Graph.forward`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    return tuple(torch.from_numpy(found) for found in session.run(None, {INPUT: pixels.numpy()}))
