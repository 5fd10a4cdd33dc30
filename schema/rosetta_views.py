"""The public schema of Rosetta zoos: views whose first column is the zoo."""

from __future__ import annotations


def _address(model: str, unit: str) -> str:
    return f"({model}.name || ':' || {unit}.module || '/' || {unit}.channel)"


_UNITS = "ON {u}.rosetta_id = p.rosetta_id AND {u}.position = p.{side} AND {u}.unit = p.unit_{side}"
_MODELS = "ON {m}.rosetta_id = p.rosetta_id AND {m}.position = p.{side}"

ROSETTA_VIEWS: dict[str, tuple[str, str]] = {
    "rosetta_zoos": (
        "One row for each zoo: models whose units were matched on the same pictures.",
        """SELECT z.name AS zoo, z.anchor,
               (SELECT list(m.name ORDER BY m.position) FROM rosetta_model m
                WHERE m.rosetta_id = z.rosetta_id) AS models,
               z.images, z.dataset, z.neighbors,
               (SELECT sum(m.units)::BIGINT FROM rosetta_model m
                WHERE m.rosetta_id = z.rosetta_id) AS units,
               (SELECT sum(p.matches)::BIGINT FROM rosetta_pair p
                WHERE p.rosetta_id = z.rosetta_id) AS matches,
               c.concepts, c.largest, z.label IS NOT NULL AS examples, z.bytes, z.settings,
               z.versions, z.created_at, z.finished_at
           FROM rosetta_run z
           LEFT JOIN (SELECT rosetta_id, count(*) AS concepts, max(size) AS largest
                      FROM (SELECT rosetta_id, concept, count(*) AS size FROM rosetta_concept
                            GROUP BY ALL) GROUP BY ALL) c USING (rosetta_id)""",
    ),
    "rosetta_models": (
        "One row for each model of a zoo.",
        """SELECT z.name AS zoo, m.name AS model, m.position, m.name = z.anchor AS anchor, m.kind,
               m.source, m.spec, m.weights_sha256, m.input_size, m.units, d.dead, m.modules,
               m.preprocessing
           FROM rosetta_model m JOIN rosetta_run z USING (rosetta_id)
           LEFT JOIN (SELECT rosetta_id, position, count_if(dead) AS dead FROM rosetta_unit
                      GROUP BY ALL) d USING (rosetta_id, position)""",
    ),
    "rosetta_units": (
        "One row for each unit of a zoo's models.",
        f"""SELECT z.name AS zoo, m.name AS model, {_address("m", "u")} AS unit, u.module,
               u.channel, u.grid_height, u.grid_width, u.mean, sqrt(u.variance) AS std, u.dead,
               u.component
           FROM rosetta_unit u JOIN rosetta_run z USING (rosetta_id)
           JOIN rosetta_model m USING (rosetta_id, position)""",
    ),
    "rosetta_pairs": (
        "Best buddies (T4.3): one row for each two units, and one the other way around.",
        f"""SELECT z.name AS zoo, ma.name AS model_a, {_address("ma", "a")} AS unit_a,
               mb.name AS model_b, {_address("mb", "b")} AS unit_b, p.correlation,
               p.rank_a, p.rank_b, a.component AS component_a, b.component AS component_b
           FROM (SELECT rosetta_id, first AS a, second AS b, unit_first AS unit_a,
                        unit_second AS unit_b, correlation, rank_first AS rank_a,
                        rank_second AS rank_b FROM rosetta_match
                 UNION ALL
                 SELECT rosetta_id, second, first, unit_second, unit_first, correlation,
                        rank_second, rank_first FROM rosetta_match) p
           JOIN rosetta_run z USING (rosetta_id)
           JOIN rosetta_model ma {_MODELS.format(m="ma", side="a")}
           JOIN rosetta_model mb {_MODELS.format(m="mb", side="b")}
           JOIN rosetta_unit a {_UNITS.format(u="a", side="a")}
           JOIN rosetta_unit b {_UNITS.format(u="b", side="b")}""",
    ),
    "rosetta_concepts": (
        "Concepts over all models of a zoo (T4.4): one row for each of the anchor's units.",
        f"""SELECT z.name AS zoo, c.concept, {_address("m", "u")} AS unit, u.module, u.channel,
               count(*) OVER (PARTITION BY c.rosetta_id, c.concept) AS size
           FROM rosetta_concept c JOIN rosetta_run z USING (rosetta_id)
           JOIN rosetta_model m ON m.rosetta_id = z.rosetta_id AND m.name = z.anchor
           JOIN rosetta_unit u ON u.rosetta_id = z.rosetta_id AND u.position = m.position
                AND u.unit = c.unit""",
    ),
    "rosetta_neurons": (
        "Units of a zoo that are neurons of a run of the same weights: the join to `neurons`.",
        f"""SELECT z.name AS zoo, {_address("m", "u")} AS unit, r.name AS run, u.component
           FROM rosetta_unit u JOIN rosetta_run z USING (rosetta_id)
           JOIN rosetta_model m USING (rosetta_id, position)
           JOIN model c USING (weights_sha256) JOIN run r ON r.model_id = c.model_id
           JOIN neuron n ON n.run_id = r.run_id AND n.component = u.component""",
    ),
}

# The tables whose columns these views show.
ROSETTA_TABLES = {
    "rosetta_zoos": "rosetta_run",
    "rosetta_pairs": "rosetta_match",
    "rosetta_neurons": "rosetta_unit",
}

_ADDRESS = "address of the unit: MODEL:MODULE/CHANNEL"

ROSETTA_COMMENTS = {
    **{(view, "zoo"): "name of the zoo" for view in ROSETTA_VIEWS},
    ("rosetta_units", "unit"): _ADDRESS,
    ("rosetta_concepts", "unit"): _ADDRESS,
    ("rosetta_neurons", "unit"): _ADDRESS,
    ("rosetta_zoos", "models"): "names of its models, in order",
    ("rosetta_zoos", "units"): "units of all its models",
    ("rosetta_zoos", "matches"): "best buddies of all pairs of models, each pair once",
    ("rosetta_zoos", "concepts"): "concepts over all models",
    ("rosetta_zoos", "largest"): "units of the anchor in the largest concept",
    ("rosetta_zoos", "examples"): "whether example pictures and maps are kept",
    ("rosetta_models", "model"): "name of the model in the zoo",
    ("rosetta_models", "anchor"): "whether tuples and concepts go through it",
    ("rosetta_models", "dead"): "units that never vary",
    ("rosetta_units", "model"): "name of the model in the zoo",
    ("rosetta_units", "std"): "standard deviation over pictures and places",
    ("rosetta_pairs", "model_a"): "the one model",
    ("rosetta_pairs", "model_b"): "the other model, or the same for units alike within one",
    ("rosetta_pairs", "unit_a"): "address of the one unit: MODEL:MODULE/CHANNEL",
    ("rosetta_pairs", "unit_b"): "address of the other unit",
    ("rosetta_pairs", "rank_a"): "of the one unit's nearest, which the other is, from 1",
    ("rosetta_pairs", "rank_b"): "of the other unit's nearest, which the one is, from 1",
    ("rosetta_pairs", "component_a"): "of a CLIP: the one unit as a neuron, L9.N391",
    ("rosetta_pairs", "component_b"): "of a CLIP: the other unit as a neuron, L9.N391",
    ("rosetta_concepts", "size"): "units of the anchor in this concept",
}
