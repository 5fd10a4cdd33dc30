"""Neurons: a list to sort and search, and each one's texts, images and norms."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from fastapi import Query
from pydantic import BaseModel, Field

from ....schema.components import Neuron, parse_component
from ...run import RunView
from ..answers import Limit, Offset, Rows, rows_of
from ..asked import Asked, AskedRun
from ..asking import K, Layer, M, MaybeText, NeuronName, PoolName
from ..charts import Histogram, histogram
from ..kept import inside
from ..page import Pages
from ..sections import lacking, section
from .heads import pools_of

pages = Pages("neurons")

Order: TypeAlias = Literal["explained_variance", "active", "mean_norm", "norm_p98", "address"]
Sort: TypeAlias = Annotated[Order, Query(description="What comes first.")]

SHOWN = 50
TOP = 24
ALIKE = 8
MOST_FOUND = 5000


class NeuronList(BaseModel):
    """Neurons of a run: those of a layer, sorted, or along a text."""

    run: str
    sort: Order
    layer: int | None
    layers: list[int]
    text: str
    rows: Rows | None
    missing: str | None
    python: str


@pages.page("/runs/{run}/neurons", "neurons.html")
def neuron_list(
    run: AskedRun,
    sort: Sort = "explained_variance",
    layer: Layer = None,
    *,
    text: MaybeText = "",
    limit: Limit = SHOWN,
    offset: Offset = 0,
) -> NeuronList:
    """Neurons in order of what is known of them; with a text, those most along it."""
    layers = list(inside(run).shape.neuron_layers)
    missing = lacking(inside(run).neurons.layers)
    rows = None
    if missing is None:
        if layer is not None:
            inside(run).neurons.place(layer)
        rows = (
            _found(run, text, layer, limit=limit, offset=offset)
            if text.strip()
            else _sorted(run, sort, layer, limit=limit, offset=offset)
        )
    return NeuronList(
        run=run.name,
        sort=sort,
        layer=layer,
        layers=layers,
        text=text,
        rows=rows,
        missing=missing,
        python=_call(run.name, text, sort, layer, limit=limit, offset=offset),
    )


class NeuronPage(BaseModel):
    """A neuron, seen through the second-order lens."""

    run: str
    neuron: str
    layer: int
    facts: dict[str, float | int | None]
    explained_variance: float
    pool: str | None
    pools: list[str]
    m: int
    rows: Rows | None = Field(description="The texts of its sparse code.")
    missing: str | None
    most: float = Field(description="The largest magnitude of a text's coefficient.")
    images: Rows
    maps: bool = Field(description="Whether activation maps can be drawn.")
    norms: Histogram
    similar: Rows
    previous: str | None
    next: str | None
    python: str


@pages.page("/runs/{run}/neurons/{neuron}", "neuron.html")
def neuron_page(
    store: Asked, run: AskedRun, neuron: NeuronName, *, pool: PoolName = None, m: M = 16
) -> NeuronPage:
    """A neuron: its texts with signs, its images, its norms, and neurons like it."""
    view = run.neuron(neuron)
    texts = section(lambda: view.texts(pool or None, m))
    address = parse_component(view.address)
    assert isinstance(address, Neuron)
    arguments = [f"pool={pool!r}"] if pool else []
    return NeuronPage(
        run=run.name,
        neuron=view.address,
        layer=address.layer,
        facts=_facts(run, address) | {"threshold": view.threshold},
        explained_variance=view.explained_variance,
        pool=pool or inside(run).row["default_pool"],
        pools=pools_of(store, run),
        m=m,
        rows=texts.rows,
        missing=texts.missing,
        most=max((abs(row["coefficient"]) for row in texts.rows.rows), default=0.0)
        if texts.rows
        else 0.0,
        images=rows_of(view.top_images(TOP)),
        maps=inside(run).shape.neuron_input,
        norms=_norms(run, view.address),
        similar=rows_of(run.neuron_similarity(view.address, ALIKE)),
        previous=_beside(run, address, -1),
        next=_beside(run, address, 1),
        python=f"store.run({run.name!r}).neuron({view.address!r}).texts("
        f"{', '.join([*arguments, f'm={m}'])})",
    )


@pages.json.get("/runs/{run}/neurons/{neuron}/texts")
def neuron_texts(
    run: AskedRun, neuron: NeuronName, pool: PoolName = None, *, m: M = 16, center: bool = False
) -> Rows:
    """A neuron's direction as a sparse sum of texts (T3.4)."""
    return rows_of(run.neuron(neuron).texts(pool or None, m, center=center))


@pages.json.get("/runs/{run}/neurons/{neuron}/images")
def neuron_images(run: AskedRun, neuron: NeuronName, k: K = 50) -> Rows:
    """The images of a neuron's largest second-order effects."""
    return rows_of(run.neuron(neuron).top_images(k))


@pages.json.get("/runs/{run}/neurons/{neuron}/norms")
def neuron_norms(run: AskedRun, neuron: NeuronName) -> Histogram:
    """How long a neuron's second-order effects are, over all images."""
    return _norms(run, run.neuron(neuron).address)


@pages.json.get("/runs/{run}/neurons/{neuron}/similar")
def neuron_similar(run: AskedRun, neuron: NeuronName, k: K = 10, *, layer: Layer = None) -> Rows:
    """The neurons whose directions are most like another one's."""
    return rows_of(run.neuron_similarity(neuron, k, layers=layer))


def _found(run: RunView, text: str, layer: int | None, *, limit: int, offset: int) -> Rows:
    k = min(offset + limit, MOST_FOUND)
    found = run.find_neurons(text, k, layers=layer)
    shape = inside(run).shape
    total = shape.neurons * (1 if layer is not None else len(shape.neuron_layers))
    rows = rows_of(found[offset:k], total=min(total, MOST_FOUND), offset=offset)
    return rows.model_copy(update={"note": found.note})


def _sorted(run: RunView, sort: Order, layer: int | None, *, limit: int, offset: int) -> Rows:
    opened = inside(run)
    chosen, given = "run_id = ?", [opened.row["run_id"]]
    if layer is not None:
        chosen, given = f"{chosen} AND layer = ?", [*given, layer]
    # The catalogue's own table: the view would gather the texts of all neurons to show a few.
    names = [
        "component",
        "layer",
        "neuron",
        "mean_norm",
        "norm_p98",
        "explained_variance",
        "active",
    ]
    found = opened.console.query(
        f"SELECT {', '.join(names)} FROM neuron WHERE {chosen} "
        f"ORDER BY {_ordered(sort)} LIMIT ? OFFSET ?",
        [*given, limit, offset],
    )
    ((total,),) = opened.console.rows(f"SELECT count(*) FROM neuron WHERE {chosen}", given)
    rows = rows_of(opened.result(found), total=total, offset=offset)
    texts = _first_texts(run, [row["component"] for row in rows.rows])
    rows.columns = [*names, "texts"]
    for row in rows.rows:
        row["texts"] = texts.get(row["component"], [])
    return rows


def _call(run: str, text: str, sort: Order, layer: int | None, *, limit: int, offset: int) -> str:
    if text.strip():
        chosen = "" if layer is None else f", layers={layer}"
        found = f"store.run({run!r}).find_neurons({text!r}, k={offset + limit}{chosen})"
        return f"{found}[{offset}:]" if offset else found
    where = f"run = '{run}'" + ("" if layer is None else f" AND layer = {layer}")
    columns = "component, explained_variance, mean_norm, norm_p98, active, texts"
    further = f" OFFSET {offset}" if offset else ""
    query = f"SELECT {columns} FROM neurons WHERE {where} ORDER BY {_ordered(sort)} LIMIT {limit}"
    return f'store.sql("{query}{further}")'


def _ordered(sort: Order) -> str:
    return "layer, neuron" if sort == "address" else f"{sort} DESC NULLS LAST, layer, neuron"


def _first_texts(run: RunView, components: list[str]) -> dict[str, list[str]]:
    opened = inside(run)
    parsed = [one for one in map(parse_component, components) if isinstance(one, Neuron)]
    found = opened.console.rows(
        "SELECT component, list(if(coefficient < 0, '-', '+') || text ORDER BY rank) "
        "FROM neuron_texts WHERE run = ? AND pool = ? AND rank <= 4 AND NOT centered "
        "AND layer IN (SELECT unnest(?::INTEGER[])) AND neuron IN (SELECT unnest(?::INTEGER[])) "
        "GROUP BY component, m QUALIFY m = max(m) OVER (PARTITION BY component)",
        [
            run.name,
            opened.row["default_pool"],
            sorted({one.layer for one in parsed}),
            sorted({one.neuron for one in parsed}),
        ],
    )
    return dict(found)


def _facts(run: RunView, address: Neuron) -> dict[str, float | int | None]:
    names = ("mean_norm", "norm_p98", "active")
    opened = inside(run)
    found = opened.console.rows(
        f"SELECT {', '.join(names)} FROM neuron WHERE run_id = ? AND layer = ? AND neuron = ?",
        [opened.row["run_id"], address.layer, address.neuron],
    )
    return dict(zip(names, found[0], strict=True)) if found else {}


def _norms(run: RunView, address: str) -> Histogram:
    view = run.neuron(address)
    return histogram(view.activity().values[:, 0], threshold=view.threshold, logarithmic=True)


def _beside(run: RunView, address: Neuron, step: int) -> str | None:
    shape = inside(run).shape
    place = shape.neuron_layers.index(address.layer) * shape.neurons + address.neuron + step
    if not 0 <= place < shape.neurons * len(shape.neuron_layers):
        return None
    layer, number = divmod(place, shape.neurons)
    return str(Neuron(shape.neuron_layers[layer], number))
