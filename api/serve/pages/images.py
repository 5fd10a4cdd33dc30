"""Images: a gallery with facets, and each image with what was written about it."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from fastapi import Query
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

from ....queries.segmentation import Threshold
from ....schema.errors import BadQuestion
from ...image import ImageView
from ...result import Result
from ...run import RunView
from ...segmentation_methods import Method
from ...store import Store
from ..addresses import part
from ..answers import Offset, Rows, rows_of
from ..asked import Asked, AskedRun
from ..asking import ImageId, K, Layer, M, MaybeText, PoolName, Text, named_image
from ..facets import Facet, choice_of, faceted
from ..grids import Grid, head_grid, layer_strip
from ..kept import inside
from ..page import SEE_OTHER, Pages
from ..sections import Section, lacking, section
from .pictures import Debiased, HeadAsked, NeuronAsked, debias_of
from .run import heads_of, roles_of

pages = Pages("images")

Ids: TypeAlias = npt.NDArray[np.int64]

SHOWN = 60
NEAREST = 12
CONCEPTS = 12
MOST_RANKED = 5000

Facets = Annotated[
    list[str],
    Query(max_length=20, description="Chosen values, each a column and its value: `label:heart`."),
]
Centered = Annotated[bool, Query(description="Take the pool's mean away from its texts.")]
Shown = Annotated[int, Query(ge=1, le=SHOWN, description="How many images at most.")]


class Gallery(BaseModel):
    """Images of a run: all, those of chosen facets, or in order of a text."""

    run: str
    text: str
    choice: dict[str, str]
    facets: list[Facet]
    rows: Rows
    rejected: int
    python: str


@pages.page("/runs/{run}/images", "images.html")
def gallery(
    run: AskedRun,
    facet: Facets = [],  # noqa: B006 - pydantic copies it
    text: MaybeText = "",
    *,
    limit: Shown = SHOWN,
    offset: Offset = 0,
) -> Gallery:
    """Images with facets; with a text, those whose representation is most along it first."""
    found = faceted(run)
    choice = choice_of(found, facet)
    image_ids = found.image_ids[found.chosen(choice)] if choice else found.image_ids
    if text.strip():
        rows = _along(run, text, image_ids if choice else None, limit=limit, offset=offset)
    else:
        rows = _by_id(run, image_ids, limit=limit, offset=offset)
    return Gallery(
        run=run.name,
        text=text,
        choice=choice,
        facets=found.counted(choice),
        rows=rows,
        rejected=_rejected(run),
        python=_call(run.name, choice, text, limit),
    )


class ImagePage(BaseModel):
    """An image of a run."""

    run: str
    image_id: int
    facts: dict[str, Any]
    choice: dict[str, str] = Field(description="Its values of the facets.")
    text: str
    head: str
    relative_to: str
    neuron: str
    center: bool = Field(description="Whether concepts are told without the pool's mean.")
    k: int = Field(description="How many concepts are shown.")
    heads: list[str] = Field(description="Heads that heatmaps can be drawn through.")
    tokens: str | None = Field(description="Why there are no heatmaps, or null.")
    activations: str | None = Field(description="Why there are no activation maps, or null.")
    concepts: Section
    most: float = Field(description="The largest magnitude of a concept's score.")
    layers: Grid
    written: Grid | None = Field(description="Shares of heads; null where none are kept as rows.")
    nearest: Rows
    previous: int | None
    next: int | None
    python: str


@pages.html.get("/runs/{run}/images/by-key")
def image_by_key(
    run: AskedRun, key: Annotated[str, Query(max_length=500, description="A key, or a number.")]
) -> RedirectResponse:
    """The page of the image of a key."""
    found = run.image(named_image(key)).image_id
    return RedirectResponse(f"/runs/{part(run.name)}/images/{found}", SEE_OTHER)


@pages.page("/runs/{run}/images/{image_id}", "image.html")
def image_page(
    store: Asked,
    run: AskedRun,
    image_id: ImageId,
    *,
    text: MaybeText = "",
    head: HeadAsked = "",
    relative_to: MaybeText = "",
    neuron: NeuronAsked = "",
    center: Centered = True,
) -> ImagePage:
    """An image: concepts, what layers and heads wrote, where a text is, and its nearest ones."""
    view = run.image(image_id)
    opened = inside(run)
    _check_asked(run, head, neuron)
    concepts = section(lambda: view.concepts(k=CONCEPTS, center=center))
    scores = [abs(row["score"]) for row in concepts.rows.rows] if concepts.rows else []
    found = faceted(run)
    place = int(np.searchsorted(found.image_ids, image_id))
    return ImagePage(
        run=run.name,
        image_id=image_id,
        facts=_facts(run, image_id),
        choice={
            name: column.values[column.codes[place]]
            for name, column in found.columns.items()
            if column.codes[place] >= 0
        },
        text=text,
        head=head,
        relative_to=relative_to,
        neuron=neuron,
        center=center,
        k=CONCEPTS,
        heads=[
            row["component"]
            for row in heads_of(run)
            if row["layer"] in opened.shape.head_token_layers
        ],
        tokens=lacking(opened.need_tokens),
        activations=lacking(opened.neurons.need_input),
        concepts=concepts,
        most=max(scores, default=0.0),
        layers=layer_strip(_layer_shares(view), "share"),
        written=_written(store, run, image_id),
        nearest=rows_of(run.nearest_images(image_id, NEAREST + 1, normalize=True)),
        previous=int(found.image_ids[place - 1]) if place else None,
        next=int(found.image_ids[place + 1]) if place + 1 < len(found.image_ids) else None,
        python=f"store.run({run.name!r}).image({image_id})",
    )


class Map(BaseModel):
    """Numbers over an image: rows of patches, or of pixels, from the top."""

    text: str
    values: list[list[float | None]]


@pages.json.get("/runs/{run}/images/{image_id}/concepts")
def image_concepts(
    run: AskedRun,
    image_id: ImageId,
    layer: Layer = None,
    *,
    pool: PoolName = None,
    k: K = 10,
    m: M = 16,
    center: Centered = False,
    signed: bool = True,
) -> Rows:
    """What an image shows, in the words of its active neurons (thesis, appendix B)."""
    found = run.image(image_id).concepts(layer, pool or None, k, m=m, center=center, signed=signed)
    return rows_of(found)


@pages.json.get("/runs/{run}/images/{image_id}/effects")
def image_effects(store: Asked, run: AskedRun, image_id: ImageId) -> Rows:
    """What each layer and head wrote: norm, and share of the representation."""
    view = run.image(image_id)
    rows = [{**row, "kind": "layer"} for row in _layer_shares(view)]
    rows += [{**row, "kind": "head"} for row in _head_shares(store, run, image_id)]
    columns = ["component", "kind", "norm", "share"]
    rows = [{name: row[name] for name in columns} for row in rows]
    return Rows(columns=columns, rows=rows, total=len(rows))


@pages.json.get("/runs/{run}/images/{image_id}/heatmap")
def image_heatmap(
    run: AskedRun,
    image_id: ImageId,
    text: Text,
    *,
    head: HeadAsked = "",
    relative_to: MaybeText = "",
    debias: Debiased = "true",
) -> Map:
    """Where a text is written: a number a patch."""
    found = run.image(image_id).heatmap(
        text, head=head or None, relative_to=relative_to or None, debias=debias_of(debias)
    )
    return Map(text=found.text, values=found.values.tolist())


class Mask(BaseModel):
    """A mask over the crop that the model saw."""

    text: str
    method: Method
    share: float = Field(description="The share of the crop that it covers.")
    threshold: Threshold
    mask: list[str] = Field(description="Rows of pixels from the top, each as 0 and 1.")


@pages.json.get("/runs/{run}/images/{image_id}/segment")
def image_segment(
    run: AskedRun, image_id: ImageId, text: Text, *, method: Method = "tokens"
) -> Mask:
    """Where a text is, as a mask of the crop."""
    found = run.image(image_id).segment(text, method=method)
    mask = ["".join("01"[int(one)] for one in row) for row in found.mask.tolist()]
    return Mask(text=text, method=method, share=found.share, threshold=found.threshold, mask=mask)


@pages.json.get("/runs/{run}/images/{image_id}/nearest")
def image_nearest(run: AskedRun, image_id: ImageId, k: K = 10, *, normalize: bool = False) -> Rows:
    """The images whose representations are nearest to an image's."""
    return rows_of(run.nearest_images(image_id, k, normalize=normalize))


def _check_asked(run: RunView, head: str, neuron: str) -> None:
    # Pictures of what is not kept would be broken ones; the page says what is wrong itself.
    if head:
        run.head(head)
        inside(run).token_layer(head)
    if neuron:
        run.neuron(neuron)


def _by_id(run: RunView, image_ids: Ids, *, limit: int, offset: int) -> Rows:
    shown = image_ids[offset : offset + limit]
    found = Result.of(inside(run).images.described(shown))
    return rows_of(found, total=len(image_ids), offset=offset)


def _along(run: RunView, text: str, image_ids: Ids | None, *, limit: int, offset: int) -> Rows:
    if offset > MOST_RANKED:
        msg = f"images along a text are ranked up to {MOST_RANKED:,}; choose facets or go back."
        raise BadQuestion(msg)
    k = min(offset + limit, MOST_RANKED)
    found = run.top_images(text, k, images=image_ids, normalize=True)
    total = len(faceted(run).image_ids if image_ids is None else image_ids)
    rows = rows_of(found[offset:k], total=min(total, MOST_RANKED), offset=offset)
    return rows.model_copy(update={"note": found.note})


def _rejected(run: RunView) -> int:
    opened = inside(run)
    ((count,),) = opened.console.rows(
        "SELECT count(*) FROM run_image WHERE run_id = ? AND status = 'rejected'",
        [opened.row["run_id"]],
    )
    return count


def _facts(run: RunView, image_id: int) -> dict[str, Any]:
    found = inside(run).console.query(
        "SELECT * EXCLUDE (run, image_id, status, reason) FROM images "
        "WHERE run = ? AND image_id = ?",
        [run.name, image_id],
    )
    return rows_of(inside(run).result(found)).rows[0]


def _layer_shares(view: ImageView) -> list[dict[str, Any]]:
    terms = view.layer_effects()
    written = np.asarray(terms, np.float64)[0]
    whole = np.asarray(view.representation(), np.float64)[0]
    shares = written @ whole / (whole @ whole)
    norms = np.linalg.norm(written, axis=1)
    names = terms.components or []
    return [
        {"component": name, "norm": float(norm), "share": float(share)}
        for name, norm, share in zip(names, norms, shares, strict=True)
    ]


def _head_shares(store: Store, run: RunView, image_id: int) -> list[dict[str, Any]]:
    opened = inside(run)
    found = opened.console.query(
        "SELECT format('L{}.H{}', layer, head) AS component, layer, head, norm, share "
        "FROM head_effect WHERE run_id = ? AND image_id = ? ORDER BY layer, head",
        [opened.row["run_id"], image_id],
    )
    return found.to_pylist()


def _written(store: Store, run: RunView, image_id: int) -> Grid | None:
    rows = _head_shares(store, run, image_id)
    if not rows:
        return None
    texts = {row["component"]: row["texts"] for row in heads_of(run)}
    told = [row | {"texts": texts.get(row["component"])} for row in rows]
    return head_grid(told, "share", roles_of(store, run))


def _call(run: str, choice: dict[str, str], text: str, limit: int) -> str:
    terms = (
        f'"{name}" = ' + "'" + value.replace("'", "''") + "'" for name, value in choice.items()
    )
    where = " AND ".join(terms)
    if text.strip():
        chosen = f", where={where!r}" if where else ""
        return f"store.run({run!r}).top_images({text!r}, {limit}, normalize=True{chosen})"
    query = f"FROM images WHERE run = '{run}'" + (f" AND {where}" if where else "")
    return f"store.sql({query!r})"
