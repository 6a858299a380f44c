"""What the README says there is."""

from __future__ import annotations

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_every_option_of_the_readme_exists() -> None:
    from everclip.config.catalogue import option_names

    for group, options in re.findall(r"^\| `(\w+)` \| (.*) \|$", README, re.MULTILINE):
        named = re.findall(r"`([a-z0-9_]+)`", options)
        unknown = set(named) - set(option_names(group)) - {"random"}
        assert named, group
        assert not unknown, (group, unknown)
