"""A Rosetta zoo of an open store: the units that several models share, and what they are about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..schema.snapshot import Snapshot
from ..schema.stages import Progress
from ..schema.zoo_errors import AmbiguousZoo
from ..schema.zoos import unknown_zoo
from .card import Card
from .console import Console
from .inverting import RosettaInversions
from .open_zoo import OpenZoo, ZooMember
from .printing import human_bytes
from .result import Result
from .rosetta_dictionary import dictionary
from .rosetta_heatmaps import MapGrid, concept_heatmaps
from .rosetta_held_out import held_out_rows
from .rosetta_matches import concept_rows, match_rows, pair_statistics
from .rosetta_search import search_units
from .rosetta_unit import UnitView

if TYPE_CHECKING:
    from .run import RunView

Models = str | Sequence[str] | None


class RosettaView(RosettaInversions):
    """Models whose units were matched on the same pictures (thesis, chapter 4)."""

    def __init__(self, zoo: OpenZoo) -> None:
        self._zoo = zoo
        self.name = zoo.name

    @property
    def models(self) -> Result:
        """The view `rosetta_models` of this zoo: its models, which is the anchor, their units."""
        return self._query("SELECT * FROM rosetta_models WHERE zoo = ? ORDER BY position")

    @property
    def units(self) -> Result:
        """The view `rosetta_units` of this zoo: every unit's grid, mean, std, deadness."""
        return self.units_of()

    def units_of(self, models: Models = None) -> Result:
        """The units of some models, in the order of the zoo's modules; raises `UnknownMember`."""
        zoo = self._zoo
        every = models is None or models == []
        chosen = list(zoo.members.values()) if every else zoo.named(models or [])
        given = [member.name for member in chosen]
        found = self._zoo.console.query(
            """SELECT z.name AS zoo, m.name AS model,
                      m.name || ':' || u.module || '/' || u.channel AS unit, u.module, u.channel,
                      u.grid_height, u.grid_width, u.mean, sqrt(u.variance) AS std, u.dead,
                      u.component
               FROM rosetta_unit u JOIN rosetta_run z USING (rosetta_id)
               JOIN rosetta_model m USING (rosetta_id, position)
               WHERE z.name = ? AND list_contains(?, m.name) ORDER BY u.position, u.unit""",
            [self.name, given],
        )
        return Result(found)

    @property
    def anchor(self) -> str:
        """The model that tuples and concepts go through: the generator, if there is one."""
        return self._zoo.anchor.name

    def matches(
        self,
        models: Models = None,
        min_correlation: float | None = None,
        neighbors: int | None = None,
    ) -> Result:
        """Rosetta neurons: units of all models that match one of the anchor (T4.4), a tuple a row.

        `models` are the other models, by default all; only tuples whose correlations are all at
        least `min_correlation`; `neighbors` is K of T4.3, by default as many as the zoo keeps.
        Columns: `concept` (of these models, the strongest first), `unit` (the anchor's), a column
        named after each other model with its unit, `correlation_MODEL` of each with the anchor's
        unit, and `min_correlation`, the lowest of these, by which rows are ordered.
        Of fewer than 200 pictures many units correlate by chance, and the note says so: `held_out`
        tells which matches hold.
        Raises `UnknownMember` or `BadQuestion`.
        """
        options = {"min_correlation": min_correlation, "neighbors": neighbors}
        return match_rows(self._zoo, models=models, **options)  # type: ignore[arg-type]

    def concepts(
        self,
        models: Models = None,
        min_correlation: float | None = None,
        neighbors: int | None = None,
    ) -> Result:
        """Concepts: tuples whose anchor units are best buddies within the anchor, clustered.

        Arguments as for `matches`. Columns: `concept`, `size` (units of the anchor), `tuples`, and
        of its strongest tuple `unit`, each other model's unit, `correlation_MODEL`,
        `min_correlation`. The note says how many there are and the largest one's size. Raises as
        `matches` does.
        """
        options = {"min_correlation": min_correlation, "neighbors": neighbors}
        return concept_rows(self._zoo, models=models, **options)  # type: ignore[arg-type]

    def unit(self, address: str) -> UnitView:
        """One unit, such as "resnet50:layer3.5.relu/117", or of a CLIP "clip:L9.N391".

        Raises `BadAddress`, `UnknownMember`, or `UnknownUnit` with the nearest.
        """
        return UnitView(self._zoo, address)

    def statistics(self) -> Result:
        """Best buddies of each pair of models: how many, and how their correlations lie.

        Columns `model_a`, `model_b`, `units_a`, `units_b`, `dead_a`, `dead_b` (units that never
        vary), `matches`, `matched_a`, `matched_b` (units with a match), and of the correlations
        `mean`, `lowest`, `p25`, `median`, `p75`, `highest`. A pair of one model with itself counts
        its own units that are alike.
        """
        return pair_statistics(self._zoo)

    def held_out(
        self,
        images: Any = None,
        models: Models = None,
        *,
        members: Mapping[str, Any] | None = None,
        samples: int | None = None,
        seed: int = 1,
        limit: int | None = None,
        where: str | None = None,
        memory: int = 8_000_000_000,
        batch_size: int = 32,
        device: str = "auto",
        progress: Progress = None,
    ) -> Result:
        """Whether matches hold: their correlations on pictures that the zoo was not mined on.

        `images`, `limit` and `where` are those of `ingest`; without images, `samples` (1,600) of
        the zoo's generator from another `seed`. The models are loaded again, as they were mined;
        `members` gives those that no specification can load. Columns `model_a`, `model_b`,
        `matches`, the means `mined`, `held_out` and `shuffled` (the same units paired anew),
        `median_change` and `largest_change` of a pair's correlation, and `within_005`, the share of
        pairs that moved by at most 0.05. `progress=False` shows no bar. Needs `lensbase[ingest]`;
        raises as mining does.
        """
        from ..ingest.rosetta.mining_options import MiningOptions

        options = MiningOptions(
            memory=memory,
            batch_size=batch_size,
            samples=samples,
            seed=seed,
            limit=limit,
            where=where,
            device=device,
        )
        load = self._loader(members, device)
        return held_out_rows(
            self._zoo, images, models=models, load=load, options=options, progress=progress
        )

    def dictionary(
        self,
        concepts: int | Sequence[int] = 4,
        images: int | Sequence[int] = 3,
        models: Models = None,
        *,
        min_correlation: float | None = None,
    ) -> MapGrid:
        """Concepts on example pictures in every model (Figure 4.2): maps over the pictures.

        `concepts` are so many of the strongest, or a list of their numbers in
        `concepts(models, min_correlation)`; `images` so many of the example pictures in which the
        concept's units are most active together, or a list of their numbers. Each map is that of a
        unit of the concept's strongest tuple, scaled to its own range. Raises `NoMatches`,
        `MapsNotStored`, `UnknownMember` or `BadQuestion`.
        """
        return dictionary(
            self._zoo,
            concepts=concepts,
            images=images,
            models=models,
            min_correlation=min_correlation,
        )

    def heatmaps(
        self,
        image: int,
        model: str | None = None,
        *,
        models: Models = None,
        concepts: int | Sequence[int] | None = None,
        min_correlation: float | None = None,
    ) -> MapGrid:
        """All concepts in one example picture, as one model sees them (Figure 4.1).

        `model` is the anchor by default; `models`, `concepts` and `min_correlation` choose concepts
        as for `dictionary`. Raises as that does.
        """
        return concept_heatmaps(
            self._zoo,
            image,
            model=model,
            models=models,
            concepts=concepts,
            min_correlation=min_correlation,
        )

    def search(
        self, text: str, k: int = 10, *, run: str | None = None, signed: bool = False
    ) -> Result:
        """Units whose CLIP neuron is about a text, and the other models' units that match it.

        Through the directions of the neurons that a run with the same weights as a CLIP of the zoo
        has kept (its `find_neurons`); neurons without a match in another model are passed over.
        Columns `rank`, `unit`, `run`, `component`, `score` (<r, text>), the neuron's first `texts`,
        and of each other model the best partner and its correlation. By |score|: a neuron with a
        negative one writes against the text; `signed` takes the score itself. The note says how
        many scores are no higher than those of random directions. `run` names the run, where
        several have. Raises `NeuronsNotStored`, or what `find_neurons` raises.
        """
        return search_units(self._zoo, text, k, run=run, signed=signed)

    def info(self) -> Card:
        """A card: models, pictures, matches, concepts and size."""
        (facts,) = self._query("SELECT * FROM rosetta_zoos WHERE zoo = ?").rows()
        examples = len(self._zoo.pictures) if facts["examples"] else 0
        return Card(
            f"zoo {self.name}",
            {
                "models": ", ".join(facts["models"]),
                "anchor": facts["anchor"],
                "units": f"{facts['units']:,}",
                "mined on": f"{facts['images']:,} pictures of {facts['dataset']}",
                "matches": f"{facts['matches'] or 0:,}, of {facts['neighbors']} neighbors",
                "concepts": f"{facts['concepts'] or 0:,}, the largest of {facts['largest'] or 0}",
                "examples": f"{examples:,} pictures",
                "size": human_bytes(facts["bytes"]),
            },
        )

    def _query(self, sql: str) -> Result:
        return Result(self._zoo.console.query(sql, [self.name]))

    def __repr__(self) -> str:
        return f"zoo {self.name!r} of {', '.join(self._zoo.members)}"

    def _repr_html_(self) -> str:
        return self.info()._repr_html_()  # pyright: ignore[reportPrivateUsage]


def open_zoo(
    snapshot: Snapshot,
    name: str | None,
    *,
    console: Console,
    runs_of: Callable[[str], list[RunView]],
) -> RosettaView:
    """The view of a zoo, or of the only one; raises `UnknownZoo` or `AmbiguousZoo`."""
    zoos = {row["name"]: row for row in snapshot.rows("SELECT * FROM rosetta_run ORDER BY name")}
    if name is None and len(zoos) > 1:
        msg = (
            f"{snapshot.layout.root} holds several zoos: {', '.join(zoos)}. Name one: "
            f"store.rosetta({next(iter(zoos))!r}), or --zoo on the command line."
        )
        raise AmbiguousZoo(msg)
    chosen = next(iter(zoos), "zoo") if name is None else name
    if chosen not in zoos:
        raise unknown_zoo(chosen, list(zoos))
    row = zoos[chosen]
    number: list[Any] = [row["rosetta_id"]]
    members = [
        ZooMember(one)
        for one in snapshot.rows(
            "SELECT * FROM rosetta_model WHERE rosetta_id = ? ORDER BY position", number
        )
    ]
    compared = snapshot.rows("SELECT * FROM rosetta_pair WHERE rosetta_id = ?", number)
    pairs = {(members[one["first"]].name, members[one["second"]].name) for one in compared}
    zoo = OpenZoo(
        snapshot.layout, row, console=console, members=members, pairs=pairs, runs_of=runs_of
    )
    return RosettaView(zoo)
