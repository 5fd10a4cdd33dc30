"""The catalogue's tables, declared once: keys on the small ones, none on the fact tables.

A primary key takes 10 million fact rows from 82 to 394 MiB, so the uniqueness of facts is
`verify`'s to check. Column comments become the `data_dictionary`.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)
from sqlalchemy import text as text_clause
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

metadata = MetaData()


class Entity(DeclarativeBase):
    """Base of the small tables, which the ORM writes."""

    metadata = metadata


def _text(comment: str, *, null: bool = False, unique: bool = False) -> Mapped[str]:
    return mapped_column(String, nullable=null, unique=unique, comment=comment)


def _int(comment: str, *, null: bool = False) -> Mapped[int]:
    return mapped_column(Integer, nullable=null, comment=comment)


def _id(comment: str) -> Mapped[int]:
    # DuckDB has no SERIAL; ids are given by whoever publishes, under the store's lock.
    return mapped_column(Integer, primary_key=True, autoincrement=False, comment=comment)


class LensInfo(Entity):
    """One row: which format this store is written in and how often it was published."""

    __tablename__ = "lens_info"
    __table_args__ = {"comment": "One row about the store itself."}

    generation: Mapped[int] = _id("number of this published catalogue, from 1")
    format_major: Mapped[int] = _int("a reader refuses a store of a larger major version")
    format_minor: Mapped[int] = _int("grows when columns, tables or arrays are added")
    lensbase_version: Mapped[str] = _text("version of lensbase that published this generation")
    created_at: Mapped[datetime] = mapped_column(DateTime, comment="when the store was made, UTC")
    published_at: Mapped[datetime] = mapped_column(DateTime, comment="when this was published, UTC")
    next_run_id: Mapped[int] = _int("the next run's number; numbers are never reused")
    next_image_id: Mapped[int] = mapped_column(
        BigInteger, comment="the next image's number; numbers are never reused"
    )


class Model(Entity):
    """A vision model: where it comes from, its weights' hash and its architecture."""

    __tablename__ = "model"
    __table_args__ = {"comment": "Models whose inner workings the store holds."}

    model_id: Mapped[int] = _id("number of the model in this store")
    name: Mapped[str] = _text("architecture by its open_clip name, or `world`")
    source: Mapped[str] = _text("open_clip, file, world or module")
    pretrained: Mapped[str | None] = mapped_column(String, comment="tag or checkpoint file")
    weights_sha256: Mapped[str] = _text("hash over all weights, whatever file they came in")
    layers: Mapped[int] = _int("transformer blocks L of the vision tower")
    heads: Mapped[int] = _int("attention heads H in a block")
    head_width: Mapped[int] = _int("width e of one head")
    width: Mapped[int] = _int("width d of the residual stream")
    embed_dim: Mapped[int] = _int("width d' of the joint image-text space")
    patches: Mapped[int] = _int("image tokens, without the class token")
    grid_height: Mapped[int] = _int("rows of patches")
    grid_width: Mapped[int] = _int("columns of patches")
    patch_size: Mapped[int] = _int("side of a patch in pixels")
    image_size: Mapped[int] = _int("side of the input in pixels")
    activation: Mapped[str] = _text("gelu or quickgelu: what the MLPs really apply")
    preprocessing: Mapped[str] = _text("JSON: size, mean, std, interpolation, resize mode")


class Dataset(Entity):
    """Where images come from."""

    __tablename__ = "dataset"
    __table_args__ = {"comment": "Data sets; image keys are relative to their root."}

    dataset_id: Mapped[int] = _id("number of the data set in this store")
    name: Mapped[str] = _text("name of the data set", unique=True)
    kind: Mapped[str] = _text("folder, manifest, parquet, webdataset, huggingface or paths")
    root: Mapped[str] = _text("folder or file that image keys are relative to")


class Run(Entity):
    """One ingest: a model, a data set and every setting that would change a number."""

    __tablename__ = "run"
    __table_args__ = {"comment": "Ingests, one row for each model x data set x settings."}

    run_id: Mapped[int] = _id("number of the run in this store")
    name: Mapped[str] = _text("name of the run", unique=True)
    folder: Mapped[str] = _text("folder of its arrays and manifests; the name, if that was free")
    # No foreign keys: DuckDB refuses to delete both sides of one in the same transaction.
    model_id: Mapped[int] = _int("the model")
    dataset_id: Mapped[int] = _int("the data set")
    status: Mapped[str] = _text("ingesting or complete")
    fingerprint: Mapped[str] = _text("hash of all that would change a number")
    keys_sha256: Mapped[str] = _text("hash of the image keys in row order")
    images: Mapped[int] = _int("rows of the run's arrays, rejected images included")
    segment_rows: Mapped[int] = _int("rows of a segment: the unit of commit and of resuming")
    segments: Mapped[int] = _int("segments of the whole run")
    layer_sums: Mapped[bool] = mapped_column(
        Boolean, server_default=text_clause("false"), comment="whether sums over layers are kept"
    )
    head_layers: Mapped[str] = _text("JSON list of the layers whose heads are kept")
    tokens: Mapped[bool] = mapped_column(Boolean, comment="whether image tokens are kept")
    head_token_layers: Mapped[str] = _text("JSON list of layers with every head's tokens kept")
    neuron_layers: Mapped[str] = mapped_column(
        String, server_default="[]", comment="JSON list of the layers whose neurons are kept"
    )
    neuron_passes: Mapped[str] = mapped_column(
        String, server_default="[]", comment="JSON: neuron layers that each pass took in"
    )
    neurons: Mapped[int] = mapped_column(
        Integer, server_default="0", comment="neurons of each layer whose neurons are kept"
    )
    neuron_input: Mapped[bool] = mapped_column(
        Boolean,
        server_default=text_clause("false"),
        comment="whether what the neurons read is kept, for activation maps",
    )
    reference: Mapped[int] = mapped_column(
        Integer, server_default="0", comment="images that neurons' directions were fitted to"
    )
    by_neuron: Mapped[int | None] = mapped_column(
        Integer, comment="label of the arrays by neuron; null until the run is complete"
    )
    thumbnails: Mapped[bool] = mapped_column(Boolean, comment="whether thumbnails are kept")
    device: Mapped[str] = _text("device that ran the model")
    precision: Mapped[str] = _text("fp32 or bf16")
    storage: Mapped[str] = mapped_column(
        String, server_default="float16", comment="type of stored contributions: float16 or float32"
    )
    batch_size: Mapped[int] = _int("images in a batch; it changes the last bits of float16")
    threads: Mapped[int] = _int("threads of the forward pass; they change the last bits too")
    seed: Mapped[int] = _int("seed of random initialisation, where weights are random")
    versions: Mapped[str] = _text("JSON: versions of lensbase and the libraries that ran")
    default_pool: Mapped[str | None] = mapped_column(String, comment="pool taken for pool=None")
    head_effect_complete: Mapped[bool] = mapped_column(
        Boolean, comment="whether head_effect holds every image x head; else read the arrays"
    )
    neuron_peak_complete: Mapped[bool] = mapped_column(
        Boolean,
        server_default=text_clause("false"),
        comment="whether neuron_peak holds every peak; else read the arrays",
    )
    created_at: Mapped[datetime] = mapped_column(DateTime, comment="when the run began, UTC")
    finished_at: Mapped[datetime | None] = mapped_column(DateTime, comment="when complete, UTC")


class Segment(Entity):
    """A committed segment: consecutive rows of a run, whole on disk."""

    __tablename__ = "segment"
    __table_args__ = {"comment": "Committed segments of runs."}

    run_id: Mapped[int] = _id("the run")
    segment: Mapped[int] = _id("number of the segment in the run, from 0")
    first_row: Mapped[int] = _int("first row of the run's arrays that it holds")
    rows: Mapped[int] = _int("rows that it holds")
    rejected: Mapped[int] = _int("rows of images that could not be read")
    bytes: Mapped[int] = mapped_column(BigInteger, comment="size of its files")
    max_residual: Mapped[float | None] = mapped_column(
        Double, comment="largest completeness residual of its images, before storage"
    )


class Layer(Entity):
    """Summary of a residual term over a run's images."""

    __tablename__ = "layer"
    __table_args__ = {"comment": "The 2L+1 residual terms of each run (T2.4)."}

    run_id: Mapped[int] = _id("the run")
    term: Mapped[int] = _id("position in the array `layer`, from 0")
    component: Mapped[str] = _text("address: EMBED, L3.ATTN, L3.MLP")
    mean_norm: Mapped[float] = mapped_column(Double, comment="mean length of the term")
    variance: Mapped[float] = mapped_column(Double, comment="total variance over images")
    mean_share: Mapped[float] = mapped_column(
        Double, comment="mean of <c, M> / ||M||^2; over all terms these add up to 1"
    )


class HeadRow(Entity):
    """Summary of a head over a run's images."""

    __tablename__ = "head"
    __table_args__ = {"comment": "Attention heads kept by each run."}

    run_id: Mapped[int] = _id("the run")
    layer: Mapped[int] = _id("layer, from 0")
    head: Mapped[int] = _id("head, from 0")
    component: Mapped[str] = _text("address: L22.H8")
    mean_norm: Mapped[float] = mapped_column(Double, comment="mean length of the contribution")
    norm_p98: Mapped[float] = mapped_column(Double, comment="98th percentile of that length")
    variance: Mapped[float] = mapped_column(Double, comment="total variance over images")
    mean_share: Mapped[float] = mapped_column(Double, comment="mean of <c, M> / ||M||^2")


class Pool(Entity):
    """A named list of texts with a hash."""

    __tablename__ = "pool"
    __table_args__ = {"comment": "Text pools."}

    pool_id: Mapped[int] = _id("number of the pool in this store")
    name: Mapped[str] = _text("name of the pool", unique=True)
    kind: Mapped[str] = _text("texts, classifier, words or vectors")
    sha256: Mapped[str] = _text("hash of the texts in order")
    texts: Mapped[int] = _int("how many texts")


class PoolModel(Entity):
    """Which model has embedded which pool."""

    __tablename__ = "pool_model"
    __table_args__ = {"comment": "Which model has embedded which pool."}

    pool_id: Mapped[int] = _id("the pool")
    model_id: Mapped[int] = _id("the model")


class HeadText(Entity):
    """A TEXTSPAN result of the whole run."""

    __tablename__ = "head_text"
    __table_args__ = (
        UniqueConstraint("run_id", "layer", "head", "pool_id", "rank"),
        {"comment": "TEXTSPAN (Algorithm 1) of each head over the whole run."},
    )

    run_id: Mapped[int] = _id("the run")
    layer: Mapped[int] = _id("layer, from 0")
    head: Mapped[int] = _id("head, from 0")
    pool_id: Mapped[int] = _id("pool that the texts were picked from")
    rank: Mapped[int] = _id("order of picking, from 1")
    position: Mapped[int] = _int("position of the text in the pool, from 0")
    explained_variance: Mapped[float] = mapped_column(Double, comment="own share of variance")
    cumulative: Mapped[float] = mapped_column(Double, comment="share explained so far")


image = Table(
    "image",
    metadata,
    Column("image_id", BigInteger, comment="number of the image in this store, never reused"),
    Column("dataset_id", Integer, comment="the data set"),
    Column("key", String, comment="path or key within the data set"),
    Column("label", String, comment="class, where the data set names one"),
    Column("subgroup", String, comment="group, where the data set names one"),
    Column("sha256", String, comment="hash of the encoded file; null until ingested"),
    Column("width", Integer, comment="pixels, upright; null until ingested"),
    Column("height", Integer, comment="pixels, upright; null until ingested"),
    comment="Images, one row each for all runs.",
)

run_image = Table(
    "run_image",
    metadata,
    Column("run_id", Integer, comment="the run"),
    Column("row", BigInteger, comment="row of the run's arrays"),
    Column("image_id", BigInteger, comment="the image"),
    Column("status", String, comment="pending, ok or rejected"),
    Column("reason", String, comment="why it was rejected"),
    comment="Which row of a run's arrays belongs to which image.",
)

head_effect = Table(
    "head_effect",
    metadata,
    Column("run_id", Integer, comment="the run"),
    Column("image_id", BigInteger, comment="the image"),
    Column("layer", Integer, comment="layer, from 0"),
    Column("head", Integer, comment="head, from 0"),
    Column("norm", Float, comment="length of the head's contribution"),
    Column("share", Float, comment="<c, M> / ||M||^2: its share of the representation"),
    comment="Image x head facts.",
)

neuron = Table(
    "neuron",
    metadata,
    Column("run_id", Integer, comment="the run"),
    Column("layer", Integer, comment="layer, from 0"),
    Column("neuron", Integer, comment="neuron, from 0"),
    Column("component", String, comment="address: L9.N391"),
    Column("mean_norm", Double, comment="mean length of its second-order effect"),
    Column("norm_p98", Double, comment="98th percentile of that length over the reference set"),
    Column("explained_variance", Double, comment="first component's share of its largest effects"),
    Column("active", BigInteger, comment="images whose norm is above norm_p98"),
    comment="Neurons kept by each run.",
)

neuron_peak = Table(
    "neuron_peak",
    metadata,
    Column("run_id", Integer, comment="the run"),
    Column("image_id", BigInteger, comment="the image"),
    Column("layer", Integer, comment="layer, from 0"),
    Column("neuron", Integer, comment="neuron, from 0"),
    Column("norm", Float, comment="length of the neuron's second-order effect"),
    Column("coefficient", Float, comment="signed projection of phi - b on its direction"),
    comment="Image x neuron facts where the norm is above the neuron's norm_p98.",
)

neuron_top = Table(
    "neuron_top",
    metadata,
    Column("run_id", Integer, comment="the run"),
    Column("layer", Integer, comment="layer, from 0"),
    Column("neuron", Integer, comment="neuron, from 0"),
    Column("rank", Integer, comment="order of the norm, from 1"),
    Column("image_id", BigInteger, comment="the image"),
    Column("norm", Float, comment="length of the neuron's second-order effect"),
    comment="The images of largest norm of each neuron.",
)

neuron_text = Table(
    "neuron_text",
    metadata,
    Column("run_id", Integer, comment="the run"),
    Column("layer", Integer, comment="layer, from 0"),
    Column("neuron", Integer, comment="neuron, from 0"),
    Column("pool_id", Integer, comment="pool that the texts were picked from"),
    Column("m", Integer, comment="texts that the code may have, where pool and width allow"),
    Column("centered", Boolean, comment="whether the pool's mean was taken from its texts"),
    Column("version", Integer, comment="version of the codes; those of another one are not shown"),
    Column("rank", Integer, comment="order of picking, from 1"),
    Column("position", Integer, comment="position of the text in the pool, from 0"),
    Column("coefficient", Double, comment="signed weight gamma of the text (T3.4)"),
    comment="Sparse codes of the neurons' directions in texts.",
)

text = Table(
    "text",
    metadata,
    Column("pool_id", Integer, comment="the pool"),
    Column("position", Integer, comment="position in the pool, from 0"),
    Column("text", String, comment="the text"),
    comment="Texts of the pools.",
)

annotation = Table(
    "annotation",
    metadata,
    Column("run_id", Integer, comment="the run"),
    Column("component", String, comment="address of the component"),
    Column("role", String, comment="what it does, in a word"),
    Column("source", String, comment="person, or the rule that proposed the role"),
    Column("note", String, comment="anything to remember"),
    Column("created_at", DateTime, comment="when it was written, UTC"),
    comment="Roles of components, given by people or rules.",
)

derived = Table(
    "derived",
    metadata,
    Column("relation", String, comment="table that the result belongs to"),
    Column("fingerprint", String, comment="hash of everything that the result depends on"),
    Column("parameters", String, comment="JSON: what it was computed from"),
    comment="Results computed after the ingest and taken into the catalogue.",
)

data_dictionary = Table(
    "data_dictionary",
    metadata,
    Column("relation", String, comment="table or view"),
    Column("column", String, comment="column, or null for the relation itself"),
    Column("type", String, comment="type of the column"),
    Column("comment", String, comment="what it holds"),
    comment="What every relation and column means.",
)
