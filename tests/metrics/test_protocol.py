"""Every protocol, by discovery."""

from __future__ import annotations

import re

import pytest

from everclip.errors import ConfigError
from everclip.metrics import protocol, retrieval
from everclip.metrics.protocol import Protocol
from everclip.metrics.scores import Score, ScoreTable

PROTOCOLS = [pytest.param(each, id=each.name) for each in protocol.every()]


def two_sessions(of: Protocol) -> ScoreTable:
    """Two tasks, both evaluated after both sessions, with all names a protocol may read."""
    table = ScoreTable(2)
    for _ in range(2):
        names = (of.entry, *retrieval.RECALLS, *retrieval.BESIDE, *(m.key[5:] for m in retrieval.DIAGNOSTICS))
        names += (*retrieval.STORED, retrieval.OWN_STORED)
        table.append({task: dict.fromkeys(names, Score(50.0, 10)) for task in range(2)})
    return table


@pytest.mark.parametrize("each", PROTOCOLS)
def test_a_protocol_is_read_by_its_name_and_gives_what_is_shown(each: Protocol) -> None:
    assert protocol.read(each.name) is each
    table = two_sessions(each)
    session, summary = each.session(table), each.summary(table)
    assert session[each.entry] == 50
    assert (summary[f"average_{each.entry}"], summary[f"last_{each.entry}"]) == (50, 50)
    held_out = {"zero_shot_accuracy", "zero_shot_before", "zero_shot_after"}  # of classes outside the tasks
    held_out |= {"unseen_i2t_r1", "unseen_t2i_r1"}  # of domains without a session
    assert {measure.key for measure in each.line} <= session.keys() | held_out
    assert {m.key for m in (*each.columns, *each.details, *each.diagnostics)} <= summary.keys() | held_out


@pytest.mark.parametrize("name", ["mtil", "scores", "..errors", ""])
def test_another_name_is_refused_with_those_there_are(name: str) -> None:
    kinds = "base_to_novel, class_incremental, dense, domain_incremental, generalisation, grounding, multi_domain"
    names = f"{kinds}, ordering, retrieval"
    with pytest.raises(ConfigError, match=re.escape(f"protocol {name!r} is unknown; there are: {names}")):
        protocol.read(name)
