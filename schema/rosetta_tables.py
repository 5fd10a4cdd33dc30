"""The catalogue's tables of Rosetta zoos; `metadata` is that of all tables, these included."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Double, Float, Integer, String, Table
from sqlalchemy.orm import Mapped, mapped_column

from .tables import Entity, metadata

__all__ = [
    "ROSETTA_FACTS",
    "RosettaModel",
    "RosettaPair",
    "RosettaRun",
    "metadata",
    "rosetta_concept",
    "rosetta_match",
    "rosetta_unit",
]

ROSETTA_FACTS = ("rosetta_unit", "rosetta_match", "rosetta_concept")


class RosettaRun(Entity):
    """A zoo: models whose units were matched on the same pictures."""

    __tablename__ = "rosetta_run"
    __table_args__ = {"comment": "Zoos: models whose units were matched on the same pictures."}

    rosetta_id: Mapped[int] = mapped_column(
        Integer, primary_key=True, autoincrement=False, comment="number of the zoo in this store"
    )
    name: Mapped[str] = mapped_column(String, unique=True, comment="name of the zoo")
    folder: Mapped[str] = mapped_column(
        String, comment="folder of its arrays; the name, if that was free"
    )
    anchor: Mapped[str] = mapped_column(
        String, comment="model that tuples and concepts go through: the generator, if there is one"
    )
    images: Mapped[int] = mapped_column(Integer, comment="pictures that units were compared on")
    dataset: Mapped[str] = mapped_column(String, comment="where the pictures came from")
    keys_sha256: Mapped[str] = mapped_column(String, comment="hash of the pictures' keys in order")
    neighbors: Mapped[int] = mapped_column(
        Integer, comment="K: nearest units kept of each unit in each other model (T4.3)"
    )
    label: Mapped[int | None] = mapped_column(
        Integer, comment="label of the example pictures and maps; null where none are kept"
    )
    settings: Mapped[str] = mapped_column(String, comment="JSON: settings of the mining")
    versions: Mapped[str] = mapped_column(
        String, comment="JSON: versions of lensbase and the libraries that ran"
    )
    bytes: Mapped[int] = mapped_column(BigInteger, comment="size of its files")
    created_at: Mapped[datetime] = mapped_column(DateTime, comment="when it was begun, UTC")
    finished_at: Mapped[datetime] = mapped_column(
        DateTime, comment="when it was last added to, UTC"
    )


class RosettaModel(Entity):
    """A model of a zoo, and the modules whose channels are its units."""

    __tablename__ = "rosetta_model"
    __table_args__ = {"comment": "Models of zoos."}

    rosetta_id: Mapped[int] = mapped_column(
        Integer, primary_key=True, autoincrement=False, comment="the zoo"
    )
    position: Mapped[int] = mapped_column(
        Integer, primary_key=True, autoincrement=False, comment="place in the zoo, from 0"
    )
    name: Mapped[str] = mapped_column(String, comment="name of the model in the zoo")
    kind: Mapped[str] = mapped_column(String, comment="discriminative or generator")
    source: Mapped[str] = mapped_column(
        String, comment="open_clip, timm, torchvision, checkpoint, generator, world or module"
    )
    spec: Mapped[str] = mapped_column(String, comment="what it was loaded from")
    weights_sha256: Mapped[str] = mapped_column(
        String, comment="hash over all weights, whatever file they came in"
    )
    input_size: Mapped[int] = mapped_column(Integer, comment="side of its pictures in pixels")
    preprocessing: Mapped[str] = mapped_column(String, comment="JSON: how pictures reach it")
    units: Mapped[int] = mapped_column(Integer, comment="units: channels of its hooked modules")
    modules: Mapped[str] = mapped_column(
        String, comment="JSON: hooked modules in order: [name, channels, grid height, grid width]"
    )


class RosettaPair(Entity):
    """Two models of a zoo whose units were compared, or one with itself."""

    __tablename__ = "rosetta_pair"
    __table_args__ = {"comment": "Pairs of models whose units were compared."}

    rosetta_id: Mapped[int] = mapped_column(
        Integer, primary_key=True, autoincrement=False, comment="the zoo"
    )
    first: Mapped[int] = mapped_column(
        Integer, primary_key=True, autoincrement=False, comment="place of the first model"
    )
    second: Mapped[int] = mapped_column(
        Integer, primary_key=True, autoincrement=False, comment="place of the second model"
    )
    matches: Mapped[int] = mapped_column(Integer, comment="best buddies, each pair once")


rosetta_unit = Table(
    "rosetta_unit",
    metadata,
    Column("rosetta_id", Integer, comment="the zoo"),
    Column("position", Integer, comment="place of the model in the zoo, from 0"),
    Column("unit", Integer, comment="number of the unit within its model, from 0"),
    Column("module", String, comment="dotted name of the module"),
    Column("channel", Integer, comment="channel of the module's output, from 0"),
    Column("grid_height", Integer, comment="rows of its maps"),
    Column("grid_width", Integer, comment="columns of its maps"),
    Column("mean", Double, comment="mean activation over pictures and places (T4.1)"),
    Column("variance", Double, comment="variance over pictures and places (T4.1)"),
    Column("dead", Boolean, comment="whether it never varies: then it matches nothing"),
    Column("component", String, comment="of a CLIP: the neuron's address, L9.N391"),
    comment="Units of the models of zoos.",
)

rosetta_match = Table(
    "rosetta_match",
    metadata,
    Column("rosetta_id", Integer, comment="the zoo"),
    Column("first", Integer, comment="place of the first model"),
    Column("second", Integer, comment="place of the second model"),
    Column("unit_first", Integer, comment="unit of the first model"),
    Column("unit_second", Integer, comment="unit of the second model"),
    Column("correlation", Float, comment="Pearson correlation over pictures and places (T4.2)"),
    Column("rank_first", Integer, comment="of the first unit's nearest, which the second is"),
    Column("rank_second", Integer, comment="of the second unit's nearest, which the first is"),
    comment="Best buddies (T4.3): units of two models among each other's K nearest.",
)

rosetta_concept = Table(
    "rosetta_concept",
    metadata,
    Column("rosetta_id", Integer, comment="the zoo"),
    Column("concept", Integer, comment="number of the concept, the strongest first, from 0"),
    Column("unit", Integer, comment="unit of the anchor that is in it"),
    comment="Concepts: the anchor's units that are in tuples of all models, clustered (T4.4).",
)
