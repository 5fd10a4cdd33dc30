"""Images chosen by an SQL expression that somebody sent: asked in a process that can be ended."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...schema.errors import BadSelection, BadSQL
from ..run import RunView
from ..where import check_expression
from .kept import inside
from .sql_process import SqlProcesses

SECONDS = 5.0


def images_where(sql: SqlProcesses, run: RunView, where: str) -> npt.NDArray[np.int64]:
    """The ids of a run's readable images that meet an expression over the view `images`.

    As `where=` of the library, but a slow one is stopped after 5 s. Raises `BadSelection`, also
    where no image meets it, and `ServerBusy`.
    """
    import duckdb

    try:
        check_expression(inside(run).console, where)
    except (duckdb.Error, UnicodeError) as error:
        raise _no_expression(where, error) from error
    # A run's name holds no quote: see `schema.components.check_name`.
    query = f"""SELECT list(image_id) FILTER (wanted) AS image_ids, any_value(kind) AS kind FROM (
        SELECT image_id, wanted, typeof(wanted) AS kind FROM (
            SELECT images.image_id AS image_id, (
{where}
) AS wanted FROM (SELECT * FROM images WHERE run = '{run.name}' AND status = 'ok') AS images))"""
    try:
        (found,) = sql.query(query, seconds=SECONDS).rows()
    except BadSQL as error:
        raise _no_expression(where, error) from error
    if found["kind"] not in ("BOOLEAN", None):
        msg = f"where={where!r} is {found['kind']}, not true or false; compare it with something."
        raise BadSelection(msg)
    if not found["image_ids"]:
        msg = f"no image of run {run.name!r} meets where={where!r}."
        raise BadSelection(msg)
    return np.asarray(found["image_ids"], np.int64)


def _no_expression(where: str, error: Exception) -> BadSelection:
    return BadSelection(f"where={where!r} is no expression over the images: {error}")
