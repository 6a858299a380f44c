"""`everclip.load(...).encoder()`: called as CLIP_benchmark and MTEB call models, it gives the run's own figures."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.transforms.functional import to_pil_image

import everclip
from everclip.commands.load import checkpoint_of, read_sequence
from everclip.errors import ConfigError
from everclip.runs.folder import RunFolder

Run = Callable[..., RunFolder]


@pytest.mark.xdist_group("lora")
def test_benchmarks_that_call_it_find_the_accuracy_of_the_run(finished: Run) -> None:
    run = finished("method=lora")
    model, last = everclip.load(run.path), run.read_sessions()[-1]
    encoder, names = model.encoder(), model.classes.names
    images, labels = [], []
    for task in read_sequence(checkpoint_of(run.path, -1)).tasks:
        batch = task.samples.read(range(len(task.samples)), model.backbone.resize)
        images += [to_pil_image(image) for image in batch.images]
        labels += model.classes.columns(batch.labels).tolist()

    def accuracy(similarity: Tensor) -> float:
        return 100 * float((similarity.argmax(dim=1) == torch.tensor(labels)).float().mean())

    def weights(name: str) -> Tensor:  # as CLIP_benchmark makes them
        tokens = encoder.tokenizer([template.format(name) for template in model.classes.templates]).to("cpu")
        return normalize(normalize(encoder.encode_text(tokens), dim=-1).mean(dim=0), dim=-1)

    pixels = torch.stack([encoder.transform(image) for image in images])
    found = encoder.encode_image(pixels) @ torch.stack([weights(name) for name in names]).T
    assert accuracy(found) == pytest.approx(last["accuracy"])
    told: dict[str, Any] = {"task_metadata": None, "hf_split": "test", "hf_subset": "default", "prompt_type": None}
    pictures = encoder.encode([{"image": images[:7]}, {"image": images[7:]}], **told)  # as MTEB calls it
    texts = encoder.encode([{"text": model.classes.prompts(model.classes.templates[0])}], **told)
    assert accuracy(encoder.similarity(pictures.numpy(), texts.numpy())) == pytest.approx(last["accuracy"])
    both = encoder.encode([{"image": images[:2], "text": ["red star", "blue ring"], "id": [0, 1]}])
    expected = normalize(pictures[:2] + model.encode_text(["red star", "blue ring"]), dim=-1)
    torch.testing.assert_close(both, expected, rtol=0, atol=1e-6)
    with pytest.raises(ConfigError, match="a batch of audio; only image and text can be encoded"):
        encoder.encode([{"audio": [0]}])


@pytest.mark.xdist_group("lora")
def test_similarities_are_cosines(finished: Run) -> None:
    encoder = everclip.load(finished("method=lora").path).encoder()
    first, second = np.array([[2.0, 0.0], [3.0, 4.0]]), np.array([[0.0, 5.0], [1.0, 0.0]])
    assert encoder.similarity(first, second).tolist() == [[0, 1], [pytest.approx(0.8), pytest.approx(0.6)]]
    assert encoder.similarity_pairwise(first, second).tolist() == [0, pytest.approx(0.6)]


@pytest.mark.xdist_group("lora")
def test_the_same_model_is_told_by_its_weights(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class ModelMeta:
        create_empty = staticmethod(dict)

    models = ModuleType("mteb.models")
    models.ModelMeta = ModelMeta  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mteb", ModuleType("mteb"))
    monkeypatch.setitem(sys.modules, "mteb.models", models)
    run = finished("method=lora").path
    first, again, last = (everclip.load(run, session).encoder().mteb_model_meta for session in (0, 0, -1))
    assert first == again
    assert first["name"] == last["name"] == "everclip/Lora"
    assert first["revision"] != last["revision"]
    assert set(first["modalities"]) == {"image", "text"}
