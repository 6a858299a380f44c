"""Insertion points: how a method reaches into a backbone without forking it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches

from torch import Tensor, nn


class TokenEdit:
    """Rewrites the token sequence on its way through one tower; the identity unless overridden.

    An edit is made for one forward pass and may keep state between its calls. Tokens may be inserted behind the first
    token or appended at the end; the towers find their read-out position whatever the number of added tokens.

    Attributes:
        readout: the output tokens of the image tower, after its last norm, whose mean becomes the feature; the class
            token unless changed.
        pooled: whether it is their mean; else the image tower gives the features (B, K, E) of each of them.
        front: leading tokens, as `embed` leaves them, that are the same in every row of a group and that alone
            `before` reads and changes, with no `prefix`. The text tower then computes them once for the group: it gives
            `before` one row per group, of the front and whatever follows it in all rows.
        groups: into which consecutive rows fall, all of one size.
        alike: whether it does the same to every row, so that rows may pass in pieces.
        watched: whether `after` is called: the last block then computes all tokens, not those alone that are read out.
        halved: whether `weigh` and `between` are called, for which every block then stops in its middle.
    """

    readout: slice = slice(0, 1)
    pooled: bool = True
    front: int = 0
    groups: int = 1
    alike: bool = False
    watched: bool = False
    halved: bool = False

    def embed(self, tokens: Tensor) -> Tensor:
        """Called once on the embedded tokens (N, L, D).

        Text: before the position embeddings are added, so inserted tokens shift the later ones. Vision: after the
        position embeddings and before `ln_pre`.
        """
        return tokens

    def before(self, layer: int, tokens: Tensor) -> Tensor:
        """Called on the residual stream (N, L, D) before block `layer` (0-based) runs.

        In the image tower it may join tokens, or whole rows, as long as those that are read out stay in front.
        """
        return tokens

    def prefix(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Keys and values (N or 1, P, D) put in front of those of block `layer`'s self-attention, after `before`.

        They are not projected any more, and every token sees them; the tokens themselves become no more.
        """
        return None

    def weigh(self, keys: Tensor) -> Tensor | None:
        """Called with a block's own projected keys (N, L, D), all heads one after the other, if `halved`.

        Returns:
            (N, L), added to the logits of attending to each token, or None.
        """
        return None

    def between(self, layer: int, tokens: Tensor) -> Tensor:
        """Called on the residual stream (N, L, D) of block `layer` between attention and MLP, if `halved`."""
        return tokens

    def after(self, tokens: Tensor) -> None:
        """Called on the residual stream (N, L, D) after the last block, if `watched`."""


def matching(names: Iterable[str], pattern: str, what: str) -> list[str]:
    """The names that a regular expression matches as a whole, in their order.

    Args:
        names: to choose from.
        pattern: regular expression.
        what: kind of thing that has these names, for the message.

    Raises:
        ValueError: no name matches, or this is no regular expression.
    """
    names = list(names)
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    found = [name for name in names if expression.fullmatch(name)]
    if not found:
        near = get_close_matches(pattern.replace("\\", ""), names, n=3, cutoff=0.3)
        raise ValueError(f"no {what} matches {pattern!r}{'; there is ' * bool(near)}{', '.join(near)}")
    return found


def replace_modules(root: nn.Module, pattern: str, make: Callable[[nn.Module], nn.Module]) -> list[str]:
    """Replaces every sub-module whose full name matches.

    Args:
        root: where to look; changed in place.
        pattern: regular expression that must match the whole dotted name, for example `visual.*mlp.c_fc`.
        make: gives the replacement of a module.

    Returns:
        The names of the replaced modules, in the order of `root.named_modules()`.

    Raises:
        ValueError: nothing matches.
    """
    every = [name for name, _ in root.named_modules() if name]
    names = matching(every, pattern, f"sub-module of {type(root).__name__}")
    for name in names:
        parent_name, _, child = name.rpartition(".")
        setattr(root.get_submodule(parent_name), child, make(root.get_submodule(name)))
    return names
