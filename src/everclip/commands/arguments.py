"""What all commands but `everclip` itself take."""

from __future__ import annotations

import argparse
from importlib.metadata import version
from typing import Any


class Parser(argparse.ArgumentParser):
    """A parser that also knows `--version`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.add_argument("--version", action="version", version=f"everclip {version('everclip')}")
