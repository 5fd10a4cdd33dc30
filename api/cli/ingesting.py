"""`ingest` and `finalize`: filling a store."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from ...schema.components import slug
from ...schema.errors import BadPart, BadSize
from .. import ingesting
from ..finalizing import finalize_run
from ..printing import counted
from ..store import open_store
from .options import Run, Store


def ingest(
    store: Store,
    images: Annotated[
        str,
        typer.Argument(
            metavar="IMAGES",
            help="A folder, manifest, Parquet, WebDataset or Hugging Face data set.",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(help="An open_clip name (see `model list`), or world.", show_default=False),
    ],
    pretrained: Annotated[
        str | None, typer.Option(metavar="TAG_OR_FILE", help="Its weights: a tag or a checkpoint.")
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="The run's name; by default model, tag and data set.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="The data set's name; by default that of IMAGES.")
    ] = None,
    heads: Annotated[
        str, typer.Option(metavar="LAYERS", help="Keep heads of: all, none, last:4, 8,9 or 4:8.")
    ] = "last:4",
    tokens: Annotated[
        bool | None,
        typer.Option(
            "--tokens/--no-tokens", help="Keep image tokens; by default up to 100,000 images."
        ),
    ] = None,
    head_tokens: Annotated[
        str | None, typer.Option(metavar="LAYERS", help="Keep each head's tokens of these layers.")
    ] = None,
    neurons: Annotated[
        str | None,
        typer.Option(
            metavar="LAYERS",
            help="Keep neurons of: default (the three layers before the last), all, last:N, or "
            "8,9,10; the last layer has none.",
        ),
    ] = None,
    neuron_input: Annotated[
        bool,
        typer.Option(
            "--neuron-input/--no-neuron-input",
            help="Keep what these neurons read at each patch, for activation maps.",
        ),
    ] = False,
    reference: Annotated[
        int | None,
        typer.Option(help="Images that neurons are fitted to; by default 5,000 over the run."),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="BYTES",
            help="Most that fitting neurons may take, such as 4GB or 4GiB, by default a quarter of "
            "what is free; layers beyond it take further passes.",
        ),
    ] = None,
    pool: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Texts, one a line, for TEXTSPAN.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many images.")] = None,
    where: Annotated[
        str | None,
        typer.Option(help="Only images for which this SQL expression over the manifest holds."),
    ] = None,
    devices: Annotated[str, typer.Option(help="auto, cpu, cuda, mps, or a GPU's number.")] = "auto",
    part: Annotated[
        str | None, typer.Option(metavar="N/M", help="Only part N of M, from 1: 3/16.")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    batch_size: Annotated[int | None, typer.Option(help="By default what memory allows.")] = None,
    segment_rows: Annotated[
        int | None, typer.Option(help="Images committed together, a multiple of 16.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the forward pass.")] = None,
    workers: Annotated[int | None, typer.Option(help="Decoding processes.")] = None,
    thumbnails: Annotated[
        bool, typer.Option("--thumbnails/--no-thumbnails", help="Keep the crops the model saw.")
    ] = True,
    storage: Annotated[
        str, typer.Option(help="float16, or float32: unrounded, in twice the space.")
    ] = "float16",
    resume: Annotated[
        bool,
        typer.Option("--resume/--no-resume", help="Go on with a run that exists, or refuse to."),
    ] = True,
) -> None:
    """Run images through a model once and keep what its parts do."""
    from ...ingest.pools import read_pool

    texts = read_pool(pool, name=slug(pool.stem)) if pool is not None else None
    allowed = None if memory is None else bytes_of(memory)
    done = ingesting.ingest(
        images,
        store,
        model=model,
        pretrained=pretrained,
        run=run,
        dataset=dataset,
        heads=heads,
        tokens=tokens,
        head_tokens=head_tokens,
        neurons=neurons,
        neuron_input=neuron_input,
        reference=reference,
        memory=allowed,
        pool=texts,
        limit=limit,
        where=where,
        devices=devices,
        part=None if part is None else _part(part),
        precision=precision,
        batch_size=batch_size,
        segment_rows=segment_rows,
        threads=threads,
        workers=workers,
        thumbnails=thumbnails,
        storage=storage,
        resume=resume,
    )
    typer.echo(_closing(store, done.run))


def finalize(store: Store, run: Run = None) -> None:
    """Complete a run whose parts are all ingested."""
    name = finalize_run(store, run)
    typer.echo(_closing(store, name))


def _part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if found is None:
        msg = f"part {text!r} is not N/M; parts count from 1, such as 3/16."
        raise BadPart(msg)
    return int(found[1]), int(found[2])


def bytes_of(text: str) -> int:
    """A number of bytes as the command line names it, such as 4GB; raises `BadSize`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(?:([kmgt])(i?))?b?", text.strip().lower())
    size = 0
    if found is not None:
        power = " kmgt".index(found[2] or " ")
        size = int(float(found[1]) * (1024 if found[3] else 1000) ** power)
    if not size:
        msg = f"memory {text!r} is no number of bytes; write one such as 4GB, 4GiB or 4000000000."
        raise BadSize(msg)
    return size


def _closing(store: Path, run: str) -> str:
    """What a run is now, and what to do next."""
    place = shlex.quote(str(store))
    with open_store(store) as opened:
        (facts,) = opened.sql("SELECT * FROM runs WHERE run = ?", [run])
        heads = opened.run(run).heads
        several = f" --run {run}" if len(opened.runs) > 1 else ""
    rejected = f"{facts['rejected']:,} rejected" if facts["rejected"] else "none rejected"
    images = counted(facts["images"], "image")
    if facts["status"] != "complete":
        return (
            f"Run {run}: {facts['committed'] or 0:,} of {images}, {rejected}.\n"
            f"Next: the other parts; lensbase info {place} --watch shows how far they are."
        )
    lines = [f"Run {run}: {images}, {rejected}, complete."]
    if facts["rejected"]:
        query = f"SELECT key, reason FROM images WHERE run = '{run}' AND status = 'rejected'"
        lines.append(f'Why: lensbase sql {place} "{query}"')
    if len(heads) and facts["default_pool"] is None:
        lines.append(f"Next: lensbase pool add {place} FILE --name general")
    elif len(heads):
        best = max(heads, key=lambda row: row["variance"])["component"]
        lines.append(f"Next: lensbase head texts {place} {best}{several}")
    else:
        lines.append(f"Next: lensbase info {place}")
    return "\n".join(lines)
