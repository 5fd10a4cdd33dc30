"""The public schema: views that any DuckDB client can read, and what their columns mean.

Within a major version of the format, columns are only added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .codes import CODE_LENGTH, CODE_VERSION
from .rosetta_tables import metadata
from .rosetta_views import ROSETTA_COMMENTS, ROSETTA_TABLES, ROSETTA_VIEWS

if TYPE_CHECKING:
    import duckdb

MANIFEST = "manifest_"

VIEWS: dict[str, tuple[str, str]] = {
    "runs": (
        "One row for each run, with its model and data set.",
        """SELECT r.name AS run, m.name AS model, m.pretrained, d.name AS dataset, r.status,
               r.images, s.committed, s.rejected, r.segments, r.segment_rows, m.layers, m.heads,
               m.head_width, m.width, m.embed_dim, m.patches, m.activation, r.head_layers,
               r.tokens, r.head_token_layers, r.default_pool, s.bytes, s.max_residual,
               r.head_effect_complete, r.storage, r.layer_sums,
               r.neuron_layers, r.neurons, r.neuron_input, r.reference, r.neuron_peak_complete,
               r.precision, r.device, r.batch_size, r.threads, r.created_at, r.finished_at
           FROM run r JOIN model m USING (model_id) JOIN dataset d USING (dataset_id)
           LEFT JOIN (SELECT run_id, sum(rows)::BIGINT AS committed,
                             sum(rejected)::BIGINT AS rejected, sum(bytes)::BIGINT AS bytes,
                             max(max_residual) AS max_residual
                      FROM segment GROUP BY run_id) s USING (run_id)""",
    ),
    "models": (
        "One row for each model.",
        """SELECT name AS model, source, pretrained, weights_sha256, layers, heads, head_width,
               width, embed_dim, patches, grid_height, grid_width, patch_size, image_size,
               activation, preprocessing FROM model""",
    ),
    "pools": (
        "One row for each text pool and model that has embedded it.",
        """SELECT p.name AS pool, p.kind, p.texts, m.name AS model, m.pretrained, p.sha256
           FROM pool p LEFT JOIN pool_model USING (pool_id) LEFT JOIN model m USING (model_id)""",
    ),
    "texts": (
        "One row for each text of a pool.",
        """SELECT p.name AS pool, t.position, t.text
           FROM text t JOIN pool p USING (pool_id)""",
    ),
    "segments": (
        "One row for each committed segment.",
        """SELECT r.name AS run, s.segment, s.first_row, s.rows, s.rejected, s.bytes,
               s.max_residual FROM segment s JOIN run r USING (run_id)""",
    ),
    "layers": (
        "One row for each residual term of a run (T2.4).",
        """SELECT r.name AS run, l.component, l.term, l.mean_norm, l.variance, l.mean_share
           FROM layer l JOIN run r USING (run_id)""",
    ),
    "heads": (
        "One row for each attention head that a run kept.",
        """SELECT r.name AS run, h.component, h.layer, h.head, h.mean_norm, h.norm_p98,
               h.variance, h.mean_share,
               list(x.text ORDER BY x.rank) FILTER (x.rank <= 5) AS texts
           FROM head h JOIN run r USING (run_id)
           LEFT JOIN (SELECT ht.run_id, ht.layer, ht.head, ht.rank, t.text
                      FROM head_text ht JOIN run USING (run_id)
                      JOIN pool p ON p.pool_id = ht.pool_id AND p.name = run.default_pool
                      JOIN text t ON t.pool_id = ht.pool_id AND t.position = ht.position) x
             ON x.run_id = h.run_id AND x.layer = h.layer AND x.head = h.head
           GROUP BY ALL ORDER BY r.name, h.layer, h.head""",
    ),
    "head_texts": (
        "TEXTSPAN of each head over the whole run: one row for each picked text.",
        """SELECT r.name AS run, format('L{}.H{}', h.layer, h.head) AS component, h.layer, h.head,
               p.name AS pool, h.rank, t.text, h.explained_variance, h.cumulative
           FROM head_text h JOIN run r USING (run_id) JOIN pool p USING (pool_id)
           JOIN text t ON t.pool_id = h.pool_id AND t.position = h.position""",
    ),
    "neurons": (
        "One row for each neuron that a run kept.",
        f"""SELECT r.name AS run, n.component, n.layer, n.neuron, n.mean_norm, n.norm_p98,
               n.explained_variance, n.active, x.texts
           FROM neuron n JOIN run r USING (run_id)
           LEFT JOIN (SELECT nt.run_id, nt.layer, nt.neuron,
                             list(if(nt.coefficient < 0, '-', '+') || t.text ORDER BY nt.rank)
                                 AS texts
                      FROM neuron_text nt JOIN run USING (run_id)
                      JOIN pool p ON p.pool_id = nt.pool_id AND p.name = run.default_pool
                      JOIN text t ON t.pool_id = nt.pool_id AND t.position = nt.position
                      WHERE nt.rank <= 4 AND nt.m = {CODE_LENGTH} AND NOT nt.centered
                        AND nt.version = {CODE_VERSION}
                      GROUP BY ALL) x
             ON x.run_id = n.run_id AND x.layer = n.layer AND x.neuron = n.neuron""",
    ),
    "neuron_texts": (
        "Sparse codes of the neurons' directions: one row for each picked text (T3.4). WHERE NOT "
        "centered leaves out those that readers made of a pool less its mean.",
        f"""SELECT r.name AS run, format('L{{}}.N{{}}', n.layer, n.neuron) AS component, n.layer,
               n.neuron, p.name AS pool,
               greatest(1, least(n.m, p.texts - n.centered::INTEGER, mo.embed_dim)) AS m,
               n.centered, n.rank, t.text, n.coefficient
           FROM neuron_text n JOIN run r USING (run_id) JOIN pool p USING (pool_id)
           JOIN model mo USING (model_id)
           JOIN text t ON t.pool_id = n.pool_id AND t.position = n.position
           WHERE n.version = {CODE_VERSION}""",
    ),
    "neuron_top_images": (
        "The images of largest second-order norm of each neuron.",
        """SELECT r.name AS run, format('L{}.N{}', n.layer, n.neuron) AS component, n.layer,
               n.neuron, n.rank, n.image_id, i.key, i.label, n.norm
           FROM neuron_top n JOIN run r USING (run_id) JOIN image i USING (image_id)""",
    ),
    "neuron_peaks": (
        "One row for each image and neuron whose norm is above the neuron's 98th percentile.",
        """SELECT r.name AS run, e.image_id, format('L{}.N{}', e.layer, e.neuron) AS component,
               e.layer, e.neuron, e.norm, e.coefficient, i.label, i.subgroup
           FROM neuron_peak e JOIN run r USING (run_id) JOIN image i USING (image_id)""",
    ),
    "annotations": (
        "One row for each component that has a role: the latest that it was given.",
        r"""SELECT r.name AS run, a.component,
               try_cast(regexp_extract(a.component, '^L(\d+)', 1) AS INTEGER) AS layer,
               try_cast(regexp_extract(a.component, 'H(\d+)$', 1) AS INTEGER) AS head,
               a.role, a.source, a.note, a.created_at
           FROM annotation a JOIN run r USING (run_id)
           QUALIFY a.role IS NOT NULL AND 1 = row_number() OVER (
               PARTITION BY a.run_id, a.component ORDER BY a.created_at DESC, a.role)""",
    ),
    "derived_results": (
        "One row for each result computed after the ingest and kept.",
        """SELECT json_extract_string(d.parameters, '$.run') AS run, d.relation, d.fingerprint,
               d.parameters
           FROM derived d""",
    ),
    "head_effects": (
        "One row for each image and head: length of its contribution and share of M(I).",
        """SELECT r.name AS run, e.image_id, format('L{}.H{}', e.layer, e.head) AS component,
               e.layer, e.head, e.norm, e.share, i.label, i.subgroup
           FROM head_effect e JOIN run r USING (run_id) JOIN image i USING (image_id)""",
    ),
    "head_effects_by_label": (
        "Mean length and share of each head over the images of each label.",
        """SELECT r.name AS run, format('L{}.H{}', e.layer, e.head) AS component, e.layer, e.head,
               i.label, count(*) AS images, avg(e.norm) AS mean_norm, avg(e.share) AS mean_share
           FROM head_effect e JOIN run r USING (run_id) JOIN image i USING (image_id)
           GROUP BY ALL""",
    ),
    **ROSETTA_VIEWS,
}

_IMAGES = (
    "One row for each image of a run, with the manifest's further columns.",
    """SELECT r.name AS run, x.image_id, x.row, i.key, i.label, i.subgroup, x.status, x.reason,
           i.width, i.height, i.sha256, d.name AS dataset{further}
       FROM run_image x JOIN run r USING (run_id) JOIN image i USING (image_id)
       JOIN dataset d ON d.dataset_id = i.dataset_id{join}""",
)

# Views that are not called after the table whose rows they show.
_TABLES = {
    "neuron_top_images": "neuron_top",
    "head_effects_by_label": "head_effect",
    **ROSETTA_TABLES,
}

RESERVED_COLUMNS = frozenset(
    {"run", "image_id", "row", "key", "label", "subgroup", "status", "reason"}
    | {"width", "height", "sha256", "dataset"}
)


def create_views(connection: duckdb.DuckDBPyConnection) -> None:
    """Create every view and fill `data_dictionary`, in a catalogue that is being published."""
    definitions = VIEWS | {"images": (_IMAGES[0], _images_view(connection))}
    for name, (comment, query) in definitions.items():
        connection.execute(f"CREATE OR REPLACE VIEW {name} AS {query}")
        quoted = comment.replace("'", "''")
        connection.execute(f"COMMENT ON VIEW {name} IS '{quoted}'")
    _fill_data_dictionary(connection)


def _images_view(connection: duckdb.DuckDBPyConnection) -> str:
    manifests = [
        name
        for (name,) in connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE starts_with(table_name, ?) ORDER BY 1",
            [MANIFEST],
        ).fetchall()
    ]
    if not manifests:
        return _IMAGES[1].format(further="", join="")
    union = " UNION ALL BY NAME ".join(f'SELECT * FROM "{name}"' for name in manifests)
    further = ", f.* EXCLUDE (image_id)"
    join = f" LEFT JOIN ({union}) f ON f.image_id = x.image_id"
    return _IMAGES[1].format(further=further, join=join)


def _fill_data_dictionary(connection: duckdb.DuckDBPyConnection) -> None:
    """Explain every relation; a view's column has the comment of the table's column it shows."""
    comments: dict[str, str] = {}
    for table in metadata.sorted_tables:
        for column in table.columns:
            comments.setdefault(column.name, column.comment or "")
    comments |= {
        "run": "name of the run",
        "model": "name of the model",
        "dataset": "name of the data set",
        "pool": "name of the text pool",
        "committed": "rows in committed segments",
        "texts": "how many texts; in `heads`, the first five of its TEXTSPAN; in `neurons`, the "
        "first four of its sparse code, signed",
        "images": "how many images",
        "mean_norm": "mean length of the contribution",
        "mean_share": "mean of <c, M> / ||M||^2",
    }
    relations: dict[str, str] = {
        table.name: table.comment or "" for table in metadata.sorted_tables
    }
    relations |= {name: comment for name, (comment, _) in VIEWS.items()} | {"images": _IMAGES[0]}
    own = {
        (table.name, column.name): column.comment or ""
        for table in metadata.sorted_tables
        for column in table.columns
    }
    own |= ROSETTA_COMMENTS
    own |= {
        ("neuron_texts", "m"): "texts that the code was fitted with: no more than its pool and the "
        "joint space allow",
        ("neuron_texts", "centered"): "whether the pool's mean was taken from its texts first, as "
        "a reader asked; of an ingest never",
    }
    columns = connection.execute(
        "SELECT table_name, column_name, data_type FROM duckdb_columns() "
        "WHERE NOT internal ORDER BY table_name, column_index"
    ).fetchall()
    rows: list[tuple[str, str | None, str | None, str]] = [
        (name, None, None, comment) for name, comment in sorted(relations.items())
    ]
    for relation, column, kind in columns:
        table = _TABLES.get(relation) or relation.removesuffix("s")
        meaning = (
            own.get((relation, column))
            or own.get((table, column))
            or comments.get(column)
            or "column of the manifest"
        )
        rows.append((relation, column, kind, meaning))
    connection.execute("DELETE FROM data_dictionary")
    connection.executemany("INSERT INTO data_dictionary VALUES (?, ?, ?, ?)", rows)
