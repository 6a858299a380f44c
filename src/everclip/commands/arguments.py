"""What all commands but `everclip` itself take."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.metadata import version
from typing import Any


class Parser(argparse.ArgumentParser):
    """A parser that also knows `--version`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.add_argument("--version", action="version", version=f"everclip {version('everclip')}")


def whole_number(low: int) -> Callable[[str], int]:
    """What reads a whole number that is at least `low`."""

    def read(word: str) -> int:
        if (number := int(word)) < low:
            raise argparse.ArgumentTypeError(f"{word}: must be at least {low}")
        return number

    read.__name__ = "whole number"  # argparse names it where a word is no number
    return read


def add_points(parser: argparse.ArgumentParser) -> None:
    """What commands take that measure losses of stored models."""
    parser.add_argument(
        "--points",
        type=whole_number(0),
        default=256,
        metavar="N",
        help="training pictures that sharpness, and losses of layers, are measured on; 0: none",
    )
    parser.add_argument(
        "--kind", choices=("average", "worst"), default="average", help="sharpness: under noise, or at worst"
    )
    parser.add_argument("--radius", type=float, metavar="RHO", help="in sizes of each weight; 0.1, for worst 0.001")
    parser.add_argument(
        "--steps", type=whole_number(1), default=5, metavar="N", help="draws of noise, or steps of the ascent"
    )
    parser.add_argument("--normalize", action="store_true", help="logits have mean 0 and length 1 in sharpness")
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="of the choice of pictures")
    parser.add_argument("--accelerator", default="auto", metavar="NAME", help="auto, cpu or gpu")
    parser.add_argument("--trust", nargs="+", default=[], metavar="PACKAGE", help="with methods of your own to import")
