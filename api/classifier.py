"""Zero-shot classifiers: class names and templates to one direction a class, kept once made."""

# pyarrow has no types.
# pyright: reportUnknownParameterType=false

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from ..queries.classification import Template, class_directions, prompt, template_text
from ..schema.derived import read_derived, write_derived
from ..schema.errors import (
    BadClasses,
    BadQuestion,
    BadTemplate,
    ClassifierMismatch,
    ExtraMissing,
)
from .open_run import OpenRun
from .sql_text import encodable

if TYPE_CHECKING:
    import pyarrow as pa

F32 = npt.NDArray[np.float32]

Classes: TypeAlias = Sequence[str] | Mapping[Any, str]
"""Class names, or from the images' labels to the names that prompts use."""
Templates: TypeAlias = str | Callable[[str], str] | Sequence[Template] | None
"""`None` for the thesis' one, "openai" or "simple" for open_clip's, or templates of one's own."""

THESIS_TEMPLATE = "An image of a {}"
"""Thesis, section 2.2."""

_TABLE = "classifier"
_PROMPTS = 4096  # embedded at once, so that 1,000 classes x 80 templates stay small
_NAMED = {"openai": "OPENAI_IMAGENET_TEMPLATES", "simple": "SIMPLE_IMAGENET_TEMPLATES"}


@dataclass(frozen=True, eq=False)
class Classifier:
    """A direction for each class in a model's joint space.

    `classes` are the labels that it tells apart, `names` what the prompts call them, `weights`
    [C, d'] unit-length directions in that order; `weights_sha256` names the model.
    """

    classes: list[str]
    weights: F32
    templates: list[str]
    weights_sha256: str
    names: list[str]

    def __len__(self) -> int:
        return len(self.classes)

    def __repr__(self) -> str:
        listed = ", ".join(self.classes[:5]) + (", ..." if len(self) > 5 else "")
        count = len(self.templates)
        templates = repr(self.templates[0]) if count == 1 else f"{count} templates"
        return f"classifier of {len(self)} classes ({listed}) from {templates}"


def classifier(
    run: OpenRun, classes: Classes, *, templates: Templates = None, keep: bool = True
) -> Classifier:
    """Make a classifier, or find the one that was made of the same before.

    Without `keep` a new one leaves nothing in the store.
    Raises `BadClasses`, `BadTemplate`, `ExtraMissing` without open_clip for its templates, or
    `TextNotStored` where prompts are new and the text tower is not at hand.
    """
    labels, names = _checked_classes(classes)
    chosen = _chosen(templates)
    prompts = [[prompt(template, name) for template in chosen] for name in names]
    sha256 = run.row["weights_sha256"]
    texts = [template_text(template) for template in chosen]
    parameters = {
        "query": "classifier",
        "weights_sha256": sha256,
        "embed_dim": run.shape.embed_dim,
        "labels": labels,
        "classes": names,
        "templates": texts,
        # A function's name says little about what it makes.
        "prompts_sha256": hashlib.sha256(json.dumps(prompts).encode()).hexdigest(),
    }
    weights = _kept(read_derived(run.layout, _TABLE, parameters))
    if weights is None:
        weights = _directions(run, names, prompts)
        if keep:
            rows = _rows(labels, names, weights)
            write_derived(run.layout, _TABLE, parameters, rows=rows)
    return Classifier(labels, weights, texts, sha256, names)


def check_classifier(run: OpenRun, made: Classifier) -> None:
    """Raise `ClassifierMismatch` unless a classifier is of the run's model.

    And `BadQuestion` for what is no classifier, such as a list of classes.
    """
    given: Any = made
    if not isinstance(given, Classifier):
        msg = f"{given!r} is no classifier; make one with clip.classifier([...])."
        raise BadQuestion(msg)
    weights = np.asarray(made.weights)
    if weights.dtype.kind not in "fiu" or not np.isfinite(weights).all():
        msg = "the classifier's weights hold what is no finite number; make it again."
        raise ClassifierMismatch(msg)
    width = weights.shape[-1]
    if made.weights.ndim != 2 or len(made.classes) != len(made.weights):
        msg = (
            f"a classifier of {len(made.classes)} classes needs weights [{len(made.classes)}, "
            f"{run.shape.embed_dim}], not {list(made.weights.shape)}."
        )
    elif width != run.shape.embed_dim:
        msg = (
            f"the classifier's directions have {width} dimensions and the representations of run "
            f"{run.name!r} {run.shape.embed_dim}: it is of another model. "
            f"store.run({run.name!r}).classifier(classes) makes one of this model."
        )
    elif made.weights_sha256 != run.row["weights_sha256"]:
        msg = (
            f"the classifier is of the model {made.weights_sha256[:12]}, run {run.name!r} of "
            f"{run.row['weights_sha256'][:12]}. "
            f"store.run({run.name!r}).classifier(classes) makes one of this model."
        )
    else:
        return
    raise ClassifierMismatch(msg)


def _checked_classes(classes: Classes) -> tuple[list[str], list[str]]:
    """Labels and names of the classes."""
    given: Any = classes
    if isinstance(given, str) or not isinstance(given, Mapping | Sequence | np.ndarray):
        msg = (
            f"{given!r} is no list of classes: give names such as ['circle', 'square'], or a "
            "mapping from the images' labels to the names that prompts use."
        )
        raise BadClasses(msg)
    if isinstance(given, Mapping):
        pairs = [(str(label), name) for label, name in cast("Mapping[Any, Any]", given).items()]
    else:
        pairs = [(name, name) for name in given]
    if not pairs:
        msg = "a classifier needs classes, and none is given: at least one name."
        raise BadClasses(msg)
    for _, name in pairs:
        if not isinstance(name, str) or not name.strip() or not encodable(name):
            msg = (
                f"{name!r} is no class name, which is a text that is not blank. Where labels are "
                "something else, give a mapping from them to names: {3: 'three'}."
            )
            raise BadClasses(msg)
    labels = [str(label) for label, _ in pairs]
    for label in labels:
        if not encodable(label):
            msg = f"the label {label!r} has no UTF-8, so no image can have it."
            raise BadClasses(msg)
    twice = sorted({label for label in labels if labels.count(label) > 1}) if _has(labels) else []
    if twice:
        msg = (
            f"the class {twice[0]!r} is given {labels.count(twice[0])} times; a label names one "
            "class. Where two classes have one name, give a mapping from labels to names."
        )
        raise BadClasses(msg)
    return labels, [str(name) for _, name in pairs]


def _has(labels: list[str]) -> bool:
    return len(set(labels)) < len(labels)


def _chosen(templates: Templates) -> list[Template]:
    if templates is None:
        return [THESIS_TEMPLATE]
    if isinstance(templates, str) and templates in _NAMED:
        return list(_open_clip_templates()[templates])
    if isinstance(templates, str) and "{}" not in templates:
        msg = (
            f"the template {templates!r} says nowhere where the class goes; put {{}} there, as in "
            f"{THESIS_TEMPLATE!r}. By name there are {' and '.join(map(repr, _NAMED))}."
        )
        raise BadTemplate(msg)
    listed: Any = [templates] if isinstance(templates, str) or callable(templates) else templates
    chosen = list(listed) if isinstance(listed, Sequence | np.ndarray) else []
    if not chosen:
        msg = f"{templates!r} holds no template; {THESIS_TEMPLATE!r} is one, and the default."
        raise BadTemplate(msg)
    for template in chosen:
        if not isinstance(template, str) and not callable(template):
            msg = f"{template!r} is no template: give a text with {{}} or a function of the name."
            raise BadTemplate(msg)
    return chosen


@cache
def _open_clip_templates() -> dict[str, tuple[Template, ...]]:
    """open_clip's own lists, from that one file: importing open_clip would import torch."""
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        msg = (
            f"the templates {' and '.join(map(repr, _NAMED))} are open_clip's, which is not "
            "installed: `pip install lensbase[ingest]` brings it. A list of templates works "
            f"without it, such as [{THESIS_TEMPLATE!r}]."
        )
        raise ExtraMissing(msg)
    path = Path(package.origin).with_name("zero_shot_metadata.py")
    spec = importlib.util.spec_from_file_location("_open_clip_zero_shot_metadata", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: tuple(getattr(module, constant)) for name, constant in _NAMED.items()}


def _directions(run: OpenRun, names: list[str], prompts: list[list[str]]) -> F32:
    templates = len(prompts[0])
    step = max(1, _PROMPTS // templates)
    weights = np.empty((len(prompts), run.shape.embed_dim), np.float32)
    for start in range(0, len(prompts), step):
        part = prompts[start : start + step]
        texts = [text for of_class in part for text in of_class]
        # Templates may well have words that a small model does not know; classes may not.
        found = run.texts.encode(texts, about=names)
        embeddings = found.reshape(len(part), templates, -1)
        weights[start : start + step] = class_directions(embeddings)
    return weights


def _rows(labels: list[str], names: list[str], weights: F32) -> pa.Table:
    import pyarrow as pa

    vectors = pa.FixedSizeListArray.from_arrays(weights.reshape(-1), weights.shape[1])
    return pa.table(
        {
            "position": pa.array(range(len(labels)), pa.int32()),
            "label": pa.array(labels, pa.string()),
            "class": pa.array(names, pa.string()),
            "vector": vectors.cast(pa.list_(pa.float32())),
        }
    )


def _kept(rows: pa.Table | None) -> F32 | None:
    if rows is None:
        return None
    vectors = rows.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.array(vectors, np.float32).reshape(rows.num_rows, -1)
