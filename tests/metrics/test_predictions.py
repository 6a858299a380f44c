"""Single predictions, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from everclip.metrics.predictions import (
    Predictions,
    calibration,
    calibration_error,
    changes,
    class_accuracies,
    confusions,
)

FOUND = Predictions(np.array([7, 7, 7, 2, 2]), np.array([7, 2, 2, 2, 7]), np.array([1.0, 0.55, 0.6, 0.9, 0.3]))


def test_classes_and_confusions() -> None:
    assert class_accuracies(FOUND) == {2: (1, 2), 7: (1, 3)}
    assert confusions(FOUND) == {(7, 2): 2, (2, 7): 1}


def test_bins_of_confidence() -> None:
    bins = calibration(FOUND, bins=5)
    rows = np.array([(row.low, row.high, row.count, row.confidence, row.accuracy) for row in bins])
    np.testing.assert_allclose(rows, [(0.2, 0.4, 1, 0.3, 0), (0.4, 0.6, 2, 0.575, 0), (0.8, 1, 2, 0.95, 1)])
    assert calibration_error(bins) == pytest.approx((0.3 + 2 * 0.575 + 2 * 0.05) / 5)


def test_the_calibration_error_is_that_of_torchmetrics() -> None:
    probabilities = torch.rand(200, 4, generator=torch.Generator().manual_seed(0)).softmax(dim=-1)
    labels = torch.arange(200) % 4
    confidence, predicted = probabilities.double().max(dim=-1)
    error = calibration_error(calibration(Predictions(labels.numpy(), predicted.numpy(), confidence.numpy())))
    assert error == pytest.approx(float(multiclass_calibration_error(probabilities.double(), labels, 4, n_bins=15)))


def test_gained_and_lost() -> None:
    after = Predictions(FOUND.labels, np.array([2, 7, 2, 2, 2]), FOUND.confidence)
    gained, lost = changes(FOUND, after)
    assert gained.tolist() == [1, 4]
    assert lost.tolist() == [0]
