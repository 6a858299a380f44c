from __future__ import annotations

import pytest
import torch

from everclip.methods.wise_ft import WiseFt
from tests.methods.test_cpe_clip import Tiny, make_session, no_extract

NAME = "backbone.model.visual.proj"


def add(method: WiseFt, value: float) -> None:
    with torch.no_grad():
        method.get_parameter(NAME).add_(value)


@pytest.mark.parametrize(("anchor", "shift"), [("previous", 0.75 + 0.75 * 2), ("pretrained", 0.75 * (0.75 + 2))])
def test_two_sessions_by_hand(tiny: Tiny, anchor: str, shift: float) -> None:
    method = WiseFt(tiny(), alpha=0.75, anchor=anchor)  # type: ignore[arg-type]  # a Literal
    start = method.get_parameter(NAME).detach().clone()
    for index, step in enumerate((1.0, 2.0)):
        method.begin_session(make_session(index), no_extract)
        add(method, step)
        method.end_session(make_session(index), no_extract)
    torch.testing.assert_close(method.get_parameter(NAME).detach(), start + shift)


def test_alpha_one_is_fine_tuning_and_zero_stays(tiny: Tiny) -> None:
    for alpha in (0.0, 1.0):
        method = WiseFt(tiny(), alpha=alpha)
        start = {name: p.detach().clone() for name, p in method.named_parameters()}
        method.begin_session(make_session(0), no_extract)
        add(method, 1.0)
        tuned = {name: p.detach().clone() for name, p in method.named_parameters()}
        method.end_session(make_session(0), no_extract)
        expected = tuned if alpha else start
        assert [n for n, p in method.named_parameters() if not torch.equal(p, expected[n])] == []
