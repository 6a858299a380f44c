"""Weights of open_clip models: which are right for a model, and loading them."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import open_clip
import torch
from huggingface_hub import try_to_load_from_cache
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open

from everclip.backbones import embedded, huggingface, positions
from everclip.errors import ConfigError, MissingError

log = logging.getLogger("everclip")

# What open_clip ends with when a file holds something else than it expects.
FAULTS = (
    OSError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError, ValueError, StopIteration,
    SafetensorError, UnpicklingError,
)  # fmt: skip


def check_weights(model: str, weights: str, tag: str | None, tags: Sequence[str]) -> None:
    """Refuses weights that cannot be right before anything is loaded.

    Raises:
        ConfigError: unknown tag, or QuickGELU weights for a GELU model and the reverse.
        MissingError: a local file that is not there.
    """
    if tag is not None and tag not in tags:
        raise ConfigError(f"backbone.tag={tag} is no tag of {model}; tags: {', '.join(tags) or 'none'}; or null")
    if weights == "embedded":
        if not embedded.weights_path(model).is_file():
            raise ConfigError(f"no embedded weights for backbone.model={model}; give a tag, a file or `random`")
    elif _names_file(weights):
        if not Path(weights).is_file():
            raise MissingError(f"backbone.weights={weights}: no such file; give a checkpoint of {model} or a tag")
    elif weights != "random" and weights not in tags:
        raise ConfigError(
            f"backbone.weights={weights} is no tag of {model}; tags: {', '.join(tags) or 'none'}; "
            "a local file or `random` are possible too"
        )
    if tag is None or "timm_model_name" in open_clip.get_model_config(model)["vision_cfg"]:
        return
    wanted = bool(open_clip.get_pretrained_cfg(model, tag).get("quick_gelu", False))
    if wanted != bool(open_clip.get_model_config(model).get("quick_gelu", False)):
        other = f"{model}-quickgelu" if wanted else model.removesuffix("-quickgelu")
        raise ConfigError(
            f"weights {tag} were trained with {'QuickGELU' if wanted else 'GELU'} and "
            f"backbone.model={model} is not; use backbone.model={other}"
        )


def _create_model(model: str, **options: Any) -> Any:
    """open_clip's model, made in silence: what matters of its messages and of the hub's is raised or logged here."""
    with silent():
        return open_clip.create_model(model, **options)


@contextmanager
def silent() -> Iterator[None]:
    """Inside, open_clip, which writes to the root logger, and the hub log nothing, and set up no logging."""
    root, hub = logging.getLogger(), logging.getLogger("huggingface_hub")
    handler, level = logging.NullHandler(), hub.level
    root.addHandler(handler)  # without any, a message to the root logger makes one that stays
    root.addFilter(_refuse)
    hub.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        hub.setLevel(level)
        root.removeFilter(_refuse)
        root.removeHandler(handler)


def _refuse(_: logging.LogRecord) -> bool:
    return False


def _names_file(weights: str) -> bool:
    return "/" in weights or Path(weights).suffix in (".pt", ".pth", ".bin", ".safetensors")


def create_meta(model: str, weights: str) -> Any:
    """A model without storage, after a look whether weights in a file fit it; says so if they are yet to be fetched.

    Raises:
        MissingError: a file that is no checkpoint of the model.
    """
    with torch.device("meta"):
        created = _create_model(model, load_weights=False, device="meta")
    if _names_file(weights):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is a no-op.*")
            _explained(model, weights, partial(_load_file, created, weights))
    elif weights not in ("random", "embedded") and not is_here(model, weights):
        log.warning("weights %s of %s are not on this machine; a run would fetch them first", weights, model)
    return created


def is_here(model: str, tag: str) -> bool:
    """Whether open_clip finds the weights of a tag without network."""
    published = open_clip.get_pretrained_cfg(model, tag)
    repository, _, file = str(published.get("hf_hub", "")).rpartition("/")
    names = [file, f"{Path(file).stem}.safetensors"] if file else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
    if repository:
        return any(isinstance(try_to_load_from_cache(repository, name), str) for name in names)
    return Path("~/.cache/clip", Path(str(published.get("url"))).name).expanduser().is_file()


def _load_file(created: Any, weights: str) -> None:
    """Loads a checkpoint into a model, as open_clip does, or one of Hugging Face's CLIP.

    One with two tables of text positions has them merged.

    Raises:
        ValueError: one for texts of another length.
    """
    if Path(weights).suffix not in (".npz", ".npy"):  # of other names
        state = open_clip.factory.load_state_dict(weights)
        if foreign := huggingface.MARK in state:
            state = huggingface.read_state(state)
        positions.compare(state, created)
        if foreign or positions.REST in state:
            created.load_state_dict(positions.merged(state) if positions.REST in state else state)
            return
        del state
    open_clip.load_checkpoint(created, weights)


@cache
def tokenizer_of(model: str, length: int | None = None) -> Any:
    """A model's tokenizer, made once in a process, for texts of so many tokens; None: of as many as the model's."""
    with silent():
        return open_clip.get_tokenizer(model, context_length=length)


def _explained(model: str, weights: str, load: Callable[[], Any]) -> Any:
    """What `load` gives; a file that is no checkpoint of the model is refused in one line, without all its names."""
    try:
        return load()
    except FAULTS as error:
        reason = _reason(weights, error)
        raise MissingError(f"backbone.weights={weights} is no checkpoint of {model}: {reason}") from error


def _reason(weights: str, error: Exception) -> str:
    """Why a file does not fit, in a few words."""
    place = Path(weights).absolute()
    if place.suffix == ".safetensors":
        with suppress(SafetensorError, OSError), safe_open(place, "pt") as file:
            if "everclip" in (file.metadata() or {}):
                return (
                    "it is a stored session, of which backbone=from_run "
                    f"backbone.run={place.parents[1]} makes a backbone where its method allows it"
                )
    text = str(error)
    sizes = re.search(r"size mismatch for (\S+): .*?torch\.Size\((.*?)\).*?torch\.Size\((.*?)\)", text)
    if sizes:
        return f"its {sizes[1]} has the shape {sizes[2]}, that of the model {sizes[3]}"
    if names := re.search(r"(?:Missing|Unexpected) key\(s\) in state_dict: \"(.*?)\"", text):
        return f"the names of its tensors are others, {names[1]} is only in one of both"
    return " ".join(text.split())[:200] or type(error).__name__


def create(model: str, weights: str) -> Any:
    """A model with weights, as `OpenClip` describes them.

    Raises:
        MissingError: a file that is no checkpoint, or weights that cannot be fetched.
    """
    if weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _create_model(model)
    if weights == "embedded":
        created = _create_model(model)
        created.load_state_dict(embedded.load_weights(model))
        return created
    if _names_file(weights):
        created = _create_model(model, load_weights=False, pretrained_text=False)
        with silent():
            _explained(model, weights, partial(_load_file, created, weights))
        return created
    if not is_here(model, weights):
        log.info("weights %s of %s are not on this machine; fetching them", weights, model)
    try:
        return _create_model(model, pretrained=weights)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise MissingError(
            f"weights {weights} of {model} are not in the cache and could not be fetched ({type(error).__name__}); "
            f"on a machine with network run `python -c \"import open_clip; open_clip.create_model('{model}', "
            f"pretrained='{weights}')\"` and copy its Hugging Face cache (HF_HOME), or give a file: "
            "backbone.weights=/path/to/checkpoint.safetensors"
        ) from error
