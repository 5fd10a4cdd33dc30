"""`rosetta`: zoos of models, the units that they share, and what those are about."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ..store import open_store
from .ingesting import bytes_of
from .options import Count, Csv, Json, Store
from .rows import print_rows

rosetta = typer.Typer(help="Rosetta zoos: units that several models share.")

# All columns but settings and versions, which are JSON, and sizes for people.
_LISTED = """SELECT zoo, models, anchor, images, matches, concepts, largest, neighbors, units,
    dataset, examples, format_bytes(bytes) AS size, finished_at::TIMESTAMP_S AS finished_at
    FROM rosetta_zoos ORDER BY zoo"""

Zoo = Annotated[str | None, typer.Option(help="The zoo, where the store holds several.")]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="Only with this model; several times for several."),
]
Correlation = Annotated[
    float | None, typer.Option(help="Only tuples whose correlations are all at least this.")
]
Neighbors = Annotated[
    int | None,
    typer.Option(help="K: nearest units that make best buddies; by default all that are kept."),
]
Output = Annotated[Path, typer.Argument(metavar="FILE", help="A .png, .webp or .jpg.")]
Concepts = Annotated[
    list[int] | None,
    typer.Option("--concept", help="This concept, by number; several times for several."),
]


@rosetta.command("mine")
def mine(
    store: Store,
    images: Annotated[
        str | None,
        typer.Argument(
            metavar="[IMAGES]",
            help="Pictures, as for `ingest`; none where one of the models is a generator.",
        ),
    ] = None,
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SOURCE:ARCHITECTURE[@PRETRAINED][#PATTERN]",
            help="A model of the zoo, once for each; those that it has need not be named again.",
        ),
    ] = None,
    zoo: Annotated[str, typer.Option(help="What the zoo is called in the store.")] = "zoo",
    anchor: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The model that tuples go through; by default the generator, or the first.",
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="How many pictures a generator makes (1,600).")
    ] = None,
    seed: Annotated[int, typer.Option(help="What these are drawn from.")] = 0,
    neighbors: Annotated[
        int, typer.Option(help="K: nearest units kept of each unit in every other model.")
    ] = 5,
    memory: Annotated[
        str,
        typer.Option(
            metavar="BYTES",
            help="Most that products of units may take, such as 4GB; beyond it takes more passes.",
        ),
    ] = "8GB",
    batch_size: Annotated[int, typer.Option(help="Pictures in a batch.")] = 32,
    examples: Annotated[
        int, typer.Option(help="Pictures kept with the maps of matched units.")
    ] = 32,
    limit: Annotated[int | None, typer.Option(help="Only the first so many pictures.")] = None,
    where: Annotated[
        str | None,
        typer.Option(help="Only images for which this SQL expression over the manifest holds."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps, or a GPU's number.")] = "auto",
) -> None:
    """Find the units that models share over some pictures, and keep them as a zoo."""
    from ..mining import mine_rosetta

    allowed = bytes_of(memory)
    found = mine_rosetta(
        images,
        store,
        models=model or [],
        zoo=zoo,
        anchor=anchor,
        samples=samples,
        seed=seed,
        neighbors=neighbors,
        memory=allowed,
        batch_size=batch_size,
        examples=examples,
        limit=limit,
        where=where,
        device=device,
    )
    typer.echo(str(found.info()))
    typer.echo(f"Next: lensbase rosetta concepts {shlex.quote(str(store))} --zoo {zoo}")


@rosetta.command("list")
def list_zoos(store: Store, as_json: Json = False, as_csv: Csv = False) -> None:
    """The zoos of a store: their models, pictures, matches and concepts."""
    with open_store(store) as opened:
        found = opened.zoos if as_json or as_csv else opened.sql(_LISTED)
        print_rows(found, as_json=as_json, as_csv=as_csv, shown=None)


@rosetta.command("units")
def units(
    store: Store,
    model: Models = None,
    zoo: Zoo = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """The units of a zoo's models: their grids, means, whether they ever vary."""
    with open_store(store) as opened:
        found = opened.rosetta(zoo).units_of(model)
        print_rows(found, as_json=as_json, as_csv=as_csv)


@rosetta.command("pairs")
def pairs(store: Store, zoo: Zoo = None, as_json: Json = False, as_csv: Csv = False) -> None:
    """How many best buddies each pair of models has, and how their correlations lie."""
    with open_store(store) as opened:
        found = opened.rosetta(zoo).statistics()
        print_rows(found, as_json=as_json, as_csv=as_csv, shown=None)


@rosetta.command("matches")
def matches(
    store: Store,
    model: Models = None,
    min_correlation: Correlation = None,
    neighbors: Neighbors = None,
    zoo: Zoo = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Rosetta neurons: a unit of the anchor and the units of other models that match it."""
    with open_store(store) as opened:
        found = opened.rosetta(zoo).matches(model or None, min_correlation, neighbors)
        print_rows(found, as_json=as_json, as_csv=as_csv)


@rosetta.command("concepts")
def concepts(
    store: Store,
    model: Models = None,
    min_correlation: Correlation = None,
    neighbors: Neighbors = None,
    zoo: Zoo = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Concepts: matches whose units of the anchor are alike, with the strongest of each."""
    with open_store(store) as opened:
        found = opened.rosetta(zoo).concepts(model or None, min_correlation, neighbors)
        print_rows(found, as_json=as_json, as_csv=as_csv, shown=None)


@rosetta.command("partners")
def partners(
    store: Store,
    unit: Annotated[
        str,
        typer.Argument(metavar="UNIT", help="Such as resnet50:layer3.5.relu/117, or clip:L9.N391."),
    ],
    model: Annotated[str | None, typer.Option(help="Only units of this model.")] = None,
    neighbors: Neighbors = None,
    nearest: Annotated[
        bool,
        typer.Option("--nearest", help="Also units that it is not among the nearest of."),
    ] = False,
    zoo: Zoo = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """The units of other models that a unit translates to."""
    with open_store(store) as opened:
        view = opened.rosetta(zoo).unit(unit)
        found = view.partners(model, neighbors, mutual=not nearest)
        print_rows(found, as_json=as_json, as_csv=as_csv, shown=None)


@rosetta.command("search")
def search(
    store: Store,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text.")],
    k: Count = 10,
    signed: Annotated[
        bool, typer.Option("--signed", help="By the score, not its size: none against the text.")
    ] = False,
    run: Annotated[
        str | None, typer.Option(help="The run whose neurons are asked, where there are several.")
    ] = None,
    zoo: Zoo = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Units whose CLIP neuron is about a text, and what matches them in other models."""
    with open_store(store) as opened:
        found = opened.rosetta(zoo).search(text, k, run=run, signed=signed)
        print_rows(found, as_json=as_json, as_csv=as_csv, shown=None)


@rosetta.command("dictionary")
def dictionary(
    store: Store,
    output: Output,
    concept: Concepts = None,
    concepts: Annotated[int, typer.Option(help="So many of the strongest concepts.")] = 4,
    images: Annotated[int, typer.Option(help="Example pictures of each concept.")] = 3,
    model: Models = None,
    min_correlation: Correlation = None,
    zoo: Zoo = None,
) -> None:
    """Write a picture of concepts on example pictures, in every model (Figure 4.2)."""
    with open_store(store) as opened:
        grid = opened.rosetta(zoo).dictionary(
            concept or concepts, images, model or None, min_correlation=min_correlation
        )
        grid.save(output)
    typer.echo(f"Wrote {output}: {grid!r}.")


@rosetta.command("heatmaps")
def heatmaps(
    store: Store,
    image: Annotated[
        int, typer.Argument(metavar="IMAGE", help="An example picture by number, from 0.")
    ],
    output: Output,
    shown: Annotated[
        str | None,
        typer.Option("--as", metavar="MODEL", help="The model whose maps; by default the anchor."),
    ] = None,
    concept: Concepts = None,
    model: Models = None,
    min_correlation: Correlation = None,
    zoo: Zoo = None,
) -> None:
    """Write a picture of all concepts in one example picture (Figure 4.1)."""
    with open_store(store) as opened:
        grid = opened.rosetta(zoo).heatmaps(
            image,
            shown,
            models=model or None,
            concepts=concept or None,
            min_correlation=min_correlation,
        )
        grid.save(output)
    typer.echo(f"Wrote {output}: {grid!r}.")


@rosetta.command("drop")
def drop(
    store: Store, zoo: Annotated[str, typer.Argument(metavar="ZOO", help="The zoo's name.")]
) -> None:
    """Take a zoo out of a store, or what an unfinished mining of one has kept."""
    from ..maintenance import drop_zoo

    if not drop_zoo(store, zoo):
        typer.echo(f"Zoo {zoo} was never finished; removed what its mining had kept.")
        return
    place = shlex.quote(str(store))
    typer.echo(f"Dropped zoo {zoo}; `lensbase rollback {place}` brings it back.")
