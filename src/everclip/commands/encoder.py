"""A stored model in the forms that benchmarks of others ask for: CLIP_benchmark's and MTEB's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from everclip.digest import state_sha256
from everclip.errors import ConfigError

if TYPE_CHECKING:
    from everclip.commands.load import AdaptedModel


class Texts(list[str]):
    """Texts where tokens are expected: methods put prompts of their own around texts, and then make tokens of them."""

    def to(self, _: object) -> Texts:
        """The same; a model moves them itself."""
        return self


class Encoder:
    """Encodes as a stored model does, for CLIP_benchmark (model, `transform`, `tokenizer`) and MTEB (`encode`, ...).

    Attributes:
        tokenizer: of texts, for `encode_text`.
    """

    tokenizer = Texts

    def __init__(self, model: AdaptedModel) -> None:
        self._model = model

    def transform(self, image: Image.Image) -> Tensor:
        """Model input (3, S, S), float32, of a picture."""
        return self._model.preprocess([image])[0]

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        """Features (B, E) of length 1 of what `transform` gives, stacked."""
        return self._model.method.encode_image(images)

    def encode_text(self, texts: Texts) -> Tensor:
        """Features (N, E) of length 1 of texts."""
        return self._model.encode_text(texts)

    def encode(self, inputs: Iterable[Mapping[str, Any]], **_: Any) -> Tensor:
        """Features (N, E) of length 1 of batches of pictures (`image`), texts (`text`), or both, whose sum is taken.

        Instructions of tasks are for other models, and ignored.

        Raises:
            ConfigError: a batch of neither.
        """
        return torch.cat([self._of_batch(batch) for batch in inputs]).float().cpu()

    def _of_batch(self, batch: Mapping[str, Any]) -> Tensor:
        model, parts = self._model, []
        if "image" in batch:
            parts.append(model.encode_image(batch["image"]))
        if "text" in batch:
            parts.append(model.encode_text(batch["text"]))
        if not parts:
            raise ConfigError(f"a batch of {', '.join(batch) or 'nothing'}; only image and text can be encoded")
        return F.normalize(torch.stack(parts).sum(dim=0), dim=-1)

    def similarity(self, first: Any, second: Any) -> Tensor:
        """Cosines (N, M) of rows (N, E) and (M, E), arrays or tensors."""
        return _unit(first) @ _unit(second).T

    def similarity_pairwise(self, first: Any, second: Any) -> Tensor:
        """Cosines (N,) of rows (N, E) and (N, E)."""
        return (_unit(first) * _unit(second)).sum(dim=-1)

    @property
    def mteb_model_meta(self) -> Any:
        """MTEB's description; the revision follows from all weights, as MTEB keeps results by it."""
        from mteb.models import ModelMeta

        method = self._model.method
        return ModelMeta.create_empty(
            {
                "name": f"everclip/{type(method).__name__}",
                "revision": state_sha256(method.state_dict()),
                "modalities": ["image", "text"],
            }
        )


def _unit(rows: Any) -> Tensor:
    return F.normalize(torch.as_tensor(rows).float(), dim=-1)
