"""Backbones of the open_clip library (mlfoundations/open_clip, checked with release 3.3.0)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import asdict
from functools import lru_cache, partial
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.utils import parametrize
from torchvision.transforms import Compose, Normalize, PILToTensor, ToTensor

from everclip.backbones import embedded
from everclip.backbones.base import Backbone
from everclip.backbones.blocks import (
    AdaptedBlock,
    attend_to_self,
    fuse_activations,
    run_block,
    run_block_naively,
)
from everclip.backbones.compiled import compiled
from everclip.backbones.edited import checkpointed, run_edited
from everclip.backbones.insertion import TokenEdit
from everclip.backbones.own_models import names_file, read_model
from everclip.backbones.pieces import encoded
from everclip.backbones.positions import stretch_text_tower
from everclip.backbones.sharded import run_sharded, shard
from everclip.backbones.towers import ends_linearly, tower_size
from everclip.backbones.weights import check_weights, create, create_meta, tokenizer_of
from everclip.digest import json_sha256, state_sha256
from everclip.errors import ConfigError
from everclip.types import Positive

END_OF_TEXT = 49407
PREPARATION = ("mean", "std", "interpolation", "resize_mode", "fill_color")  # of pictures, besides their size


class OpenClip(Backbone):
    """An open_clip model behind the `Backbone` interface, with its own preprocessing and tokenizer.

    Args:
        model: an open_clip model name (`open_clip.list_models()`), `everclip-tiny`, or the path of a configuration
            (`.json`, see `read_model`) for a model of one's own.
        weights: a pre-trained tag of that model, the path of a local checkpoint (`.pt`, `.safetensors`), `embedded`
            (weights shipped with Everclip), or `random` (only when asked for by this name).
        tag: the pre-trained tag whose preprocessing and activation the weights have; for a file of such weights, or
            random ones. None: that of `weights`, or open_clip's defaults for the model.
        stretch: how many positions come of every one that a text has after the 20th, so that longer texts fit (4: 248
            tokens instead of 77); features of texts that end before stay the same. None: as the weights are.
        load: False builds the model on the meta device, without storage, after checking that weights exist.

    Raises:
        ConfigError: unknown model or tag, a tag whose activation differs from the model's (QuickGELU), or a text
            tower whose positions cannot be stretched.
        MissingError: weights that are neither here nor to be fetched.
    """

    def __init__(
        self, *, model: str, weights: str, tag: str | None = None, stretch: Positive | None = None, load: bool = True
    ) -> None:
        super().__init__()
        embedded.register_configs()
        given, own = model, names_file(model)
        model, published = read_model(model) if own else (model, dict[str, Any]())
        self._name = model
        if model not in open_clip.list_models():
            raise ConfigError(f"backbone.model={model} is no open_clip model; list: open_clip.list_models()")
        tags = open_clip.list_pretrained_tags_by_model(model)
        tag = weights if weights in tags else tag
        check_weights(model, weights, tag, tags)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*QuickGELU mismatch.*")
            warnings.filterwarnings("ignore", message="No pretrained weights.*")
            self.model: Any = create(model, weights) if load else create_meta(model, weights)
        self.model.requires_grad_(False)
        fuse_activations(self.model)
        self.config: dict[str, Any] = open_clip.get_model_config(model)
        self._run_block: Callable[..., Tensor] = run_block
        self._tokenize = lru_cache(maxsize=16)(self._tokenize_anew)  # prompts ask for the same texts in every step
        self.train(False)

        visual, text = self.model.visual, self._text
        if stretch is not None:
            self.config["text_cfg"]["context_length"] = stretch_text_tower(text, stretch, self._causal)
        published = open_clip.get_pretrained_cfg(model, tag) if tag else published
        kept = {key: published[key] for key in PREPARATION if published.get(key)}
        preprocess = PreprocessCfg(**{**visual.preprocess_cfg, **kept})
        pipeline = image_transform_v2(preprocess, is_train=False).transforms
        self._resize = Compose([*(t for t in pipeline if not isinstance(t, ToTensor | Normalize)), PILToTensor()])
        self.preprocess = preprocess
        size = preprocess.size
        self.image_size = size if isinstance(size, int) else size[0]
        self.register_buffer("mean", torch.tensor(preprocess.mean), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std), persistent=False)
        self.embed_dim = self.config["embed_dim"]
        self.vision = tower_size(visual)
        self.text = tower_size(text)
        self._checkpoints = False
        self.separable = self.vision is not None or ends_linearly(visual)
        self.provenance = {
            "model": given,
            "weights": weights,
            "tag": tag,
            "sha256": self._sha256(own) if load else None,
            "quick_gelu": bool(self.config.get("quick_gelu", False)),
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "interpolation": preprocess.interpolation,
        }

    def _sha256(self, own: bool) -> str:
        """What features follow from: the weights, and of a model of one's own what its file makes of them."""
        weights = state_sha256(self.model.state_dict())
        return json_sha256([weights, self.config, asdict(self.preprocess)]) if own else weights

    @property
    def _text(self) -> Any:
        """The text tower: `CLIP` keeps its members on the model, `CustomTextCLIP` under `text`."""
        return getattr(self.model, "text", self.model)

    @property
    def _causal(self) -> bool:
        """Whether the own text forward applies: causal, read out at the end of the text, no class token."""
        text = self._text
        pool = getattr(text, "pool_type", getattr(text, "text_pool_type", "argmax"))
        plain = pool == "argmax" and getattr(text, "cls_emb", None) is None and hasattr(text, "token_embedding")
        return plain and getattr(text, "attn_mask", None) is not None

    @property
    def _run(self) -> Callable[..., Tensor]:
        """What computes a block of a pass with access to its tokens."""
        return run_block_naively if self.naive else self._run_block

    def compile_blocks(self) -> None:
        self._run_block = compiled(run_block)

    def checkpoint_blocks(self) -> None:
        self._checkpoints = True
        self._run_block = checkpointed(self._run_block)
        if not self._reads_class_token:  # other passes cannot be taken block by block here
            self.model.visual.set_grad_checkpointing(True)

    def shard_blocks(self, mesh: DeviceMesh) -> None:
        if self.vision is None or self.text is None:
            raise ConfigError(
                f"trainer.strategy=fsdp divides the blocks of plain transformers, which backbone "
                f"{self.provenance['model']} is not built of; use trainer.strategy=ddp"
            )
        for tower in (self.model.visual, self._text):
            for block in tower.transformer.resblocks:
                shard(block, mesh, self._run_block)
        self._run_block = run_sharded

    @property
    def image_tower(self) -> nn.Module:
        tower: nn.Module = self.model.visual
        return tower

    @property
    def logit_scale(self) -> Tensor:
        return self.model.logit_scale.exp()

    def resize(self, image: Image.Image) -> Tensor:
        return self._resize(image)

    @property
    def tokenizer(self) -> Any:
        """One for all backbones of a model, and for their copies: it never changes."""
        return tokenizer_of(self._name, self.config["text_cfg"].get("context_length"))

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        return self._tokenize(tuple(texts))

    def _tokenize_anew(self, texts: tuple[str, ...]) -> Tensor:
        tokens = self.tokenizer(list(texts))
        if not self._causal:
            return tokens
        ends = tokens.argmax(dim=-1)
        for text, end in zip(texts, ends.tolist(), strict=True):
            if end <= 1:
                raise ConfigError(f"the text {text!r} has no words")
        return tokens[:, : int(ends.max()) + 1]

    def encode_image(
        self, images: Tensor, edit: TokenEdit | None = None, *, normalize: bool = True, project: bool = True
    ) -> Tensor:
        encode = partial(self._encode_image, normalize=normalize, project=project)
        return encoded(self, encode, images, edit)

    @parametrize.cached()  # attention reads a weight several times
    def _encode_image(self, images: Tensor, edit: TokenEdit | None, normalize: bool, project: bool) -> Tensor:
        if images.ndim == 2:
            features = self._project(images) if project else images
        elif images.ndim == 4:
            features = self._features(images, edit, project)
        elif edit is None:
            features = self._features(images.flatten(0, 1), None, project).unflatten(0, images.shape[:2]).mean(dim=1)
        else:  # one frame after another: an edit's rows may belong to the clips
            frames = [self._features(frame, copy(edit), project) for frame in images.unbind(1)]
            features = torch.stack(frames).mean(dim=0)
        return F.normalize(features, dim=-1) if normalize else features

    def _features(self, images: Tensor, edit: TokenEdit | None, project: bool) -> Tensor:
        """Features (B, E) of pictures, or (B, D) before the projection, of any length."""
        if edit is None and self._checkpoints and self._reads_class_token and torch.is_grad_enabled():
            edit = TokenEdit()  # takes the blocks one by one
        if edit is not None:
            features = self._encode_edited_image(images, edit)
            return self._project(features) if project else features
        some = images if images.shape[0] else images.new_zeros(1, *images.shape[1:])  # open_clip cannot reshape none
        return (self.model.encode_image if project else self._pool)(some)[: images.shape[0]]

    def _pool(self, images: Tensor) -> Tensor:
        """Features (B, D) before the projection, by the same arithmetic as open_clip's whole pass."""
        visual = self.model.visual
        if self.vision is not None:
            return visual._pool(visual.transformer(visual._embeds(images)))[0]
        if self.separable:
            return visual.trunk(images)
        raise ConfigError(
            f"backbone {self.provenance['model']} gives no image features before its projection, which this method "
            "needs; use for example backbone=vit_b16_openai"
        )

    def _project(self, features: Tensor) -> Tensor:
        """Features (B, E) of those (B, D) before the projection."""
        visual = self.model.visual
        return features @ visual.proj if self.vision is not None else visual.head(features)

    @property
    def _reads_class_token(self) -> bool:
        """Whether the image tower's feature is its class token's."""
        return self.vision is not None and self.model.visual.pool_type == "tok" and self.model.visual.attn_pool is None

    def _refuse_tokens(self) -> ConfigError:
        return ConfigError(
            f"backbone {self.provenance['model']} gives no access to its image tokens, which this method needs; "
            "use a ViT with a class token, for example backbone=vit_b16_openai"
        )

    def _embed_image(self, images: Tensor, edit: TokenEdit) -> Tensor:
        """The residual stream (B, L, D) that the first block of the image tower reads."""
        visual = self.model.visual
        patches = visual.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.to(patches.dtype).expand(images.shape[0], 1, -1), patches], dim=1)
        return visual.ln_pre(edit.embed(x + visual.positional_embedding.to(x.dtype)))

    def _encode_edited_image(self, images: Tensor, edit: TokenEdit) -> Tensor:
        """Features (B, D) before the projection, or (B, K, D) of an edit that does not pool."""
        if not self._reads_class_token:
            raise self._refuse_tokens()
        visual = self.model.visual
        x = self._embed_image(images, edit)
        read = torch.arange(edit.readout.start, edit.readout.stop, device=x.device)[None]
        x = visual.ln_post(run_edited(visual.transformer.resblocks, x, edit, read, run=self._run, causal=False))
        return x.mean(dim=1) if edit.pooled else x

    @parametrize.cached()
    def hidden(self, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, ...]:
        if self.vision is None:
            raise self._refuse_tokens()
        if images.shape[-1] != images.shape[-2]:  # tokens in the place of pictures, which are square
            return images.unbind(1)
        return self._outputs(self.model.visual, self._embed_image(images, TokenEdit()), layers)

    @parametrize.cached()
    def hidden_text(self, tokens: Tensor, layers: Sequence[int]) -> tuple[Tensor, ...]:
        if not self._causal:
            raise self._refuse_texts()
        return self._outputs(self._text, self._embed_text(tokens, TokenEdit()), layers)

    def _outputs(self, tower: Any, x: Tensor, layers: Sequence[int]) -> tuple[Tensor, ...]:
        """The residual stream (N, L, D) after some blocks of a tower, whose first one reads `x`."""
        blocks, name = tower.transformer.resblocks, "text" if tower is self._text else "image"
        count = len(blocks)
        if not layers or any(not -count <= layer < count for layer in layers):
            model = self.provenance["model"]
            raise ConfigError(f"layers={list(layers)}: the blocks of the {name} tower of {model} are 0 to {count - 1}")
        wanted, outputs = [layer % count for layer in layers], []
        for block in blocks[: max(wanted) + 1]:
            x = self._run(block, x, causal=name == "text")
            outputs.append(x)
        return tuple(outputs[layer] for layer in wanted)

    @parametrize.cached()
    def encode_words(self, tokens: Tensor, *, normalize: bool = True) -> Tensor:
        (x,) = self.hidden_text(tokens, [-1])
        features = self._project_text(x)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_patches(self, images: Tensor, *, values: bool = False, normalize: bool = True) -> Tensor:
        return encoded(self, lambda piece, _: self._encode_patches(piece, values, normalize), images)

    @parametrize.cached()
    def _encode_patches(self, images: Tensor, values: bool, normalize: bool) -> Tensor:
        visual = self.model.visual
        if self.vision is None or visual.attn_pool is not None:
            raise self._refuse_tokens()
        (tokens,) = self.hidden(images, [-2 if values else -1])
        tokens = attend_to_self(visual.transformer.resblocks[-1], tokens) if values else tokens
        features = visual.ln_post(tokens[:, 1:]) @ visual.proj
        features = features.unflatten(1, visual.grid_size)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, tokens: Tensor, edit: TokenEdit | None = None, *, normalize: bool = True) -> Tensor:
        return encoded(self, partial(self._encode_text, normalize=normalize), tokens, edit)

    @parametrize.cached()
    def _encode_text(self, tokens: Tensor, edit: TokenEdit | None, normalize: bool) -> Tensor:
        if self._causal:
            features = self._encode_causal_text(tokens, edit)
        elif edit is None:
            features = self.model.encode_text(tokens)
        else:
            raise self._refuse_texts()
        return F.normalize(features, dim=-1) if normalize else features

    def _refuse_texts(self) -> ConfigError:
        return ConfigError(
            f"backbone {self.provenance['model']} has no causal text tower, which this method needs; "
            "use for example backbone=vit_b16_openai"
        )

    def _embed_text(self, tokens: Tensor, edit: TokenEdit) -> Tensor:
        """The residual stream (N, L, D) that the first block of a causal text tower reads."""
        text = self._text
        x = edit.embed(text.token_embedding(tokens))
        if x.shape[1] > len(text.positional_embedding):
            raise ConfigError(
                f"{x.shape[1]} tokens with prompts, but backbone {self.provenance['model']} has room for "
                f"{len(text.positional_embedding)}; shorten the class names, the template or the prompts"
            )
        return x + text.positional_embedding[: x.shape[1]]

    def _encode_causal_text(self, tokens: Tensor, edit: TokenEdit | None) -> Tensor:
        """open_clip's `encode_text` on rows of any length: the same features, as nothing follows the end of text."""
        text = self._text
        if edit is None and self._checkpoints and torch.is_grad_enabled():
            edit = TokenEdit()
        x = self._embed_text(tokens, edit or TokenEdit())
        ends = tokens.argmax(dim=-1)
        if edit is not None:
            x = self._run_text_blocks(text.transformer.resblocks, x, edit, ends - tokens.shape[1])
        else:
            for block in text.transformer.resblocks:
                x = block(x, attn_mask=text.attn_mask[: x.shape[1], : x.shape[1]])
            x = x[torch.arange(x.shape[0], device=x.device), ends]
        return self._project_text(x)

    def _project_text(self, x: Tensor) -> Tensor:
        """Features (..., E) of the text tower's residual stream (..., D) after its last block."""
        projection = self._text.text_projection
        x = self._text.ln_final(x)
        return projection(x) if isinstance(projection, nn.Linear) else x @ projection

    def _run_text_blocks(self, blocks: Any, x: Tensor, edit: TokenEdit, ends: Tensor) -> Tensor:
        """The residual stream (N, D) after all blocks at the ends of texts, counted from the end of each row.

        No token sees those behind it, so what the rows of a group have in front is the same after every block too.
        """
        groups, front = edit.groups, edit.front
        adapted = any(isinstance(block, AdaptedBlock) for block in blocks)  # whose parts may draw numbers per row
        if not front or self.naive or adapted or edit.halved or len(x) <= groups:
            return run_edited(blocks, x, edit, ends[:, None], run=self._run, causal=True)[:, 0]
        rows = x.unflatten(0, (groups, -1))
        count, length = rows.shape[1], rows.shape[2] - front
        x = torch.cat([rows[:, 0, :front], rows[:, :, front:].flatten(1, 2)], dim=1)
        behind = torch.arange(1 - count, 1, device=x.device) * length  # where rows end, from the end of their group
        read = ends.unflatten(0, (groups, -1)) + behind
        branches = (count, length)
        return run_edited(blocks, x, edit, read, run=self._run, causal=True, branches=branches).flatten(0, 1)
