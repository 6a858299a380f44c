"""The recipes of CONTRIBUTING.md, one per section: its files, its commands, and what it says comes of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


@dataclass(frozen=True)
class Recipe:
    """A section as it stands there.

    Attributes:
        files: the text of each by its name.
        commands: in order.
        promise: what it says of the outcome, as it stands behind the commands.
    """

    files: dict[str, str]
    commands: list[str]
    promise: str

    def write(self, place: Path) -> None:
        """Writes the files where the text says, below a folder."""
        for name, text in self.files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text)


def recipe(title: str) -> Recipe:
    """The recipe under a heading."""
    (section,) = re.findall(rf"^## {title}\n(.*?)^## ", TEXT, re.MULTILINE | re.DOTALL)
    files = re.findall(r"File `([^`]+)`:\n\n   ```\w+\n(.*?)^   ```$", section, re.MULTILINE | re.DOTALL)
    ((commands, promise),) = re.findall(r"^   ```bash\n(.*?)^   ```\n\n   (.*)$", section, re.MULTILINE | re.DOTALL)
    written = {name: dedent(text) for name, text in files}
    assert len(written) == section.count("```") // 2 - 1, "a block without a name"
    return Recipe(written, dedent(commands).splitlines(), promise.partition("\n")[0])
