from __future__ import annotations

import numpy as np
import pytest

from everclip.metrics.dense import PROTOCOL
from tests.metrics.tables import table_of


def test_worked_example() -> None:
    # Means over tasks: 60, (50 + 30) / 2, (40 + 20 + 45) / 3. Forgetting: 60 - 40 and 30 - 20.
    matrix = np.array([[60, np.nan, np.nan], [50, 30, np.nan], [40, 20, 45]])
    table = table_of("miou", matrix, [10, 20, 30])
    assert PROTOCOL.session(table) == {"miou": 35, "base_miou": 40, "novel_miou": 32.5}
    assert PROTOCOL.summary(table) == pytest.approx(
        {
            "average_miou": 45, "last_miou": 35, "performance_drop": 25, "forgetting": 15, "backward_transfer": -15,
        }
    )  # fmt: skip
