from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from everclip.errors import Preempted
from everclip.methods.ewc import Ewc
from everclip.methods.finetune import Finetune
from everclip.runs.folder import RunFolder
from everclip.training.checkpoint import load_session
from everclip.training.monitor import Monitor
from tests.methods.pairs import pair_batch, pair_session
from tests.methods.test_cpe_clip import Tiny, make_batch, make_session, no_extract
from tests.methods.test_finetune import all_but_the_scale, assert_same_weights, train

LABELS = ([0, 1, 2, 1], [3, 4, 3, 4])


def measure(method: Ewc, labels: list[int], size: int) -> None:
    """The second phase of a session: gradients of the log-likelihood, `size` pictures at a time."""
    batch = make_batch(labels)
    for start in range(0, len(labels), size):
        method.zero_grad()
        part = batch.map(lambda tensor, start=start: tensor[start : start + size])  # type: ignore[misc]  # bound now
        method.log_likelihood(part)["fisher_cross_entropy"].backward()
        method.before_step()


def session(method: Ewc, index: int, shift: float = 0.0) -> Tensor:
    """A whole session whose training moves the weights by random steps; the weights at its end."""
    method.begin_session(make_session(index), no_extract)
    move(method, shift)
    measure(method, LABELS[index], 2)
    method.end_session(make_session(index), no_extract)
    return parameters_to_vector(method.tuned).detach()


def move(method: Ewc, size: float) -> None:
    weights = parameters_to_vector(method.tuned).detach()
    steps = torch.randn(len(weights), generator=torch.Generator().manual_seed(0))
    vector_to_parameters(weights + size * steps, method.tuned)


def test_the_fisher_information_is_the_mean_squared_gradient_of_each_picture(tiny: Tiny) -> None:
    method, plain = Ewc(tiny()), Finetune(tiny())
    for one in (method, plain):
        one.begin_session(make_session(0), no_extract)
    measure(method, LABELS[0], 1)
    method.end_session(make_session(0), no_extract)
    expected = np.zeros(method.fisher.shape)
    batch = make_batch(LABELS[0])
    names = [name for name, p in method.named_parameters() if p.requires_grad]
    for row in range(4):
        plain.zero_grad()
        one_picture = batch.map(lambda tensor, row=row: tensor[row : row + 1])  # type: ignore[misc]  # bound now
        plain.loss(one_picture)["cross_entropy"].backward()
        gradients = [plain.get_parameter(name).grad for name in names]
        expected += np.concatenate([g.numpy().ravel() for g in gradients if g is not None]) ** 2 / 4
    np.testing.assert_allclose(method.fisher.numpy(), expected, rtol=1e-3, atol=1e-6 * expected.max())


def test_the_first_session_is_fine_tuning_and_the_next_begins_at_rest(tiny: Tiny) -> None:
    method = Ewc(tiny(), strength=100.0)
    method.begin_session(make_session(0), no_extract)
    assert list(method.loss(make_batch(LABELS[0]))) == ["cross_entropy"]
    session(method, 0, shift=1e-3)
    method.begin_session(make_session(1), no_extract)
    method.zero_grad()
    penalty = method.penalty()
    penalty.backward()
    assert penalty.item() == 0
    assert all(not bool(p.grad.any()) for p in method.tuned if p.grad is not None)
    move(method, 1e-2)
    assert float(method.loss(make_batch(LABELS[1]))["ewc"].detach()) > 0


@pytest.mark.parametrize("decay", [1.0, 0.25])
def test_two_online_sessions(tiny: Tiny, decay: float) -> None:
    method, alone = Ewc(tiny(), strength=3.0, decay=decay), Ewc(tiny())
    session(method, 0)
    first = method.fisher.clone()
    end = session(method, 1, shift=1e-2)
    alone.begin_session(make_session(1), no_extract)
    vector_to_parameters(end, alone.tuned)
    measure(alone, LABELS[1], 2)
    alone.end_session(make_session(1), no_extract)
    torch.testing.assert_close(method.fisher, decay * first + alone.fisher)
    method.begin_session(make_session(1), no_extract)
    move(method, 1e-2)
    way = parameters_to_vector(method.tuned).detach() - end
    expected = 0.5 * 3.0 * float(method.fisher.double() @ way.double().square())
    assert float(method.penalty().detach()) == pytest.approx(expected, rel=1e-3)


def test_without_strength_it_is_fine_tuning(tiny: Tiny) -> None:
    method, plain = Ewc(tiny(), strength=0), all_but_the_scale(tiny)
    end = session(method, 0, shift=1e-2)
    vector_to_parameters(end, [p for p in plain.parameters() if p.requires_grad])
    for one in (method, plain):
        train(one, 1)
    assert bool(method.fisher.any())
    assert_same_weights(method, plain)


def test_the_springs_of_a_quadratic_meet_where_they_should(tiny: Tiny) -> None:
    method = Ewc(tiny(), strength=3.0)
    stream = torch.Generator().manual_seed(0)
    curvature, minimum, fisher, anchor = torch.rand(4, 6, generator=stream, dtype=torch.float64)
    fisher[2] = 0
    first, second = (nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in ((2, 2), (2,)))
    method.tuned, method.fisher, method.anchor = [first, second], fisher, anchor
    optimizer = torch.optim.SGD(method.tuned, lr=0.25)
    for _ in range(400):
        optimizer.zero_grad()
        way = parameters_to_vector(method.tuned) - minimum
        (0.5 * curvature @ way.square() + method.penalty()).backward()
        optimizer.step()
    expected = (curvature * minimum + 3 * fisher * anchor) / (curvature + 3 * fisher)
    torch.testing.assert_close(parameters_to_vector(method.tuned).detach(), expected)


def test_separate_sessions_pull_like_a_spring_each(tiny: Tiny) -> None:
    method = Ewc(tiny(), strength=2.0, variant="separate")
    ends, importances = [], []
    for index in (0, 1):
        ends.append(session(method, index, shift=1e-2))
        importances.append(method.fisher - sum(importances))
    method.begin_session(make_session(1), no_extract)
    move(method, 1e-2)
    method.zero_grad()
    method.penalty().backward()
    found = torch.cat([p.grad.flatten() for p in method.tuned if p.grad is not None])
    now = parameters_to_vector(method.tuned).detach()
    expected = sum(2.0 * f * (now - end) for f, end in zip(importances, ends, strict=True))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-4 * float(expected.abs().max()))  # type: ignore[union-attr]  # a tensor


def test_a_decay_belongs_to_the_online_form(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match=r"decay=0\.5 belongs to variant=online"):
        Ewc(tiny(), variant="separate", decay=0.5)


def test_going_on_inside_the_measuring_phase(run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("method=ewc", "max_sessions=2", "train.epochs=1", "train.base.epochs=1", "train.batch_size=3")
    straight = run(*words, folder="straight")
    base, second = (record["train_steps"] for record in straight.read_sessions())
    assert second == 4  # two steps of training, two of measuring
    monkeypatch.setattr(Monitor, "stop", property(lambda self: self.step == base + 2))
    with pytest.raises(Preempted):
        run(*words, folder="again")
    monkeypatch.undo()
    resumed = run(*words, folder="again")
    first, again = (load_session(folder.checkpoint(1))[0] for folder in (straight, resumed))
    assert {"fisher", "batches"} <= first.keys() == again.keys()
    assert int(first["batches"]) == 2
    assert [name for name in first if not torch.equal(first[name], again[name])] == []


def test_of_pairs_the_likelihood_within_a_batch_is_measured(tiny: Tiny) -> None:
    method, batch = Ewc(tiny()), pair_batch(("a red star", "a bee", "two boats"))
    method.begin_session(pair_session(), no_extract)
    (plain,) = method.loss(batch).values()
    gradients = torch.autograd.grad(plain, method.tuned)
    method.log_likelihood(batch)["fisher_contrastive"].backward()
    method.before_step()
    method.end_session(pair_session(), no_extract)
    torch.testing.assert_close(method.fisher, torch.cat([g.flatten() for g in gradients]).square())
