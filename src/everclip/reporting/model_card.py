"""The model card of what a run has adapted: where it comes from, what it was measured to do, how it is loaded."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

LOAD = {
    "open_clip": 'model, _, transform = open_clip.create_model_and_transforms("local-dir:FOLDER")\n'
    'tokenizer = open_clip.get_tokenizer("local-dir:FOLDER")',
    "huggingface": 'model = transformers.CLIPModel.from_pretrained("FOLDER")\n'
    'processor = transformers.CLIPProcessor.from_pretrained("FOLDER")',
    "onnx": 'session = onnxruntime.InferenceSession("FOLDER/model.onnx")\n'
    "session.get_modelmeta().custom_metadata_map  # JSON: classes, preprocess\n"
    '# session.run(None, {"pixels": (B, 3, S, S) uint8}) gives features and probabilities; normalised inside',
}
LIBRARIES = {"open_clip": "open_clip", "huggingface": "transformers", "onnx": "onnxruntime"}


def model_card(
    run: Mapping[str, Any],
    record: Mapping[str, Any],
    summary: Mapping[str, Any],
    weights: Mapping[str, Any],
    form: str,
    base: str | None,
) -> str:
    """The text of a `README.md` with its front matter, whose licence is left to be filled in where it is not known.

    Args:
        run: content of `run.json`.
        record: of the session whose model it is.
        summary: content of `summary.json`; of the run's end, so empty for a model of an earlier session.
        weights: provenance of the model.
        form: a key of `LIBRARIES`.
        base: where the backbone's weights are published on the Hugging Face hub, if they are.
    """
    words = [word for word in run.get("overrides", []) if not word.startswith("paths.")]
    method, sequence = run.get("method"), run.get("sequence")
    embedded = weights["weights"] == "embedded"
    front = {
        "license": "apache-2.0" if embedded else "unknown",
        "library_name": LIBRARIES[form],
        "pipeline_tag": "image-classification" if form == "onnx" else "zero-shot-image-classification",
        "tags": ["clip", "everclip", method, sequence],
        **({"base_model": base} if base else {}),
    }
    fill = "" if embedded else "  # fill in: what the backbone's weights and the data allow"
    lines = [f"{key}: {json.dumps(value)}{fill if key == 'license' else ''}" for key, value in front.items()]
    method_facts = {
        "method": method,
        "backbone": f"{weights['model']}, weights {weights['weights']}",
        "SHA-256 of the backbone": weights.get("source_sha256"),
        "SHA-256 of this model": weights["sha256"],
        "trained parameters": run.get("trainable_parameters"),
    }
    data = {
        "sequence": sequence,
        "fingerprint": run.get("fingerprint"),
        "class order": run.get("class_order"),
        "session": f"{record.get('index')} of 0 to {run.get('sessions', 0) - 1}",
        "classes seen": record.get("seen_classes"),
        "templates": ", ".join(run.get("templates") or ()) or None,
    }
    scores = {
        f"{task['name']}: {name} ({score['count']} samples)": score["value"]
        for task in record.get("tasks", ())
        for name, score in task["scores"].items()
    }
    return "\n".join(
        [
            "---", *lines, "---", "",
            f"# {run.get('backbone')} adapted by {method} to {sequence}", "",
            "## Method", "", *_table(method_facts), "",
            "## Data", "", *_table(data), "",
            f"## Metrics (protocol {run.get('protocol')}, seed {run.get('seed')})", "",
            *_table(scores | {name: value for name, value in summary.items() if name != "check"}), "",
            "## Load", "", "```python", f"import {LIBRARIES[form]}", "", LOAD[form], "```", "",
            "## Made by", "", "```bash", shlex.join(["everclip", *words]), "```", "",
            f"Run {run.get('digest')}, seed {run.get('seed')}, commit {run.get('commit')}.", "",
        ]
    )  # fmt: skip


def _table(facts: Mapping[str, Any]) -> list[str]:
    """Rows for what is a number or a text."""
    shown = {name: value for name, value in facts.items() if isinstance(value, str | int | float)}
    rows = [f"| {_cell(name)} | {_cell(value)} |" for name, value in shown.items()]
    return ["| what | value |", "|---|---|", *rows]


def _cell(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())
    return text.replace("|", r"\|").replace("<", "&lt;")
