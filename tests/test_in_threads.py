"""Work on many files at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from everclip.storage import CHUNK, in_threads


def test_results_come_in_order_and_the_first_failure_is_raised(tmp_path: Path) -> None:
    assert in_threads(lambda number: 2 * number, range(3 * CHUNK + 1)) == list(range(0, 6 * CHUNK + 2, 2))
    assert in_threads(len, []) == []
    paths = [tmp_path / f"{number}" for number in range(2 * CHUNK)]
    for path in paths:
        path.touch()
    paths[5].unlink()
    paths[CHUNK + 5].unlink()
    with pytest.raises(FileNotFoundError, match=r"/5'"):
        in_threads(Path.stat, paths)
