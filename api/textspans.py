"""TEXTSPAN of many heads in one table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..queries.textspan import Score
from ..schema.components import Head
from ..schema.errors import BadQuestion
from .candidates import Pool
from .named_components import Components, addresses_of
from .open_run import KeptHead, OpenRun
from .result import Result
from .selection import Selection
from .spans import Span, spans_of


def kept_heads(run: OpenRun, heads: Components) -> list[KeptHead]:
    """Heads by anything that names components, by default all kept ones.

    Raises `BadQuestion` for none, `BadAddress`, `UnknownRun`, `UnknownComponent`,
    `UnknownRole` or `HeadNotStored`.
    """
    if heads is None:
        named = [
            str(Head(layer, number))
            for layer in run.shape.head_layers
            for number in range(run.shape.heads)
        ]
    else:
        named = addresses_of(run, heads)
    if not named:
        msg = f"no head is named; `heads` takes addresses such as 'L{run.shape.layers - 1}.H0'."
        raise BadQuestion(msg)
    return list(dict.fromkeys(run.head(address) for address in named))


def heads_textspan(
    run: OpenRun,
    heads: Sequence[KeptHead],
    *,
    pool: Pool,
    m: int,
    selection: Selection | None,
    normalize: bool,
    score: Score,
) -> Result:
    """The texts of each head, a row for each; see `RunView.textspan`."""
    spans = spans_of(
        run, heads, pool=pool, m=m, selection=selection, normalize=normalize, score=score
    )
    counts = [len(span.texts) for span in spans]
    addresses = [head.address for head in heads]
    columns = {
        "component": [str(one) for one, n in zip(addresses, counts, strict=True) for _ in range(n)],
        "layer": np.repeat([one.layer for one in addresses], counts),
        "head": np.repeat([one.head for one in addresses], counts),
        "rank": np.concatenate([np.arange(1, n + 1) for n in counts]),
        "text": [text for span in spans for text in span.texts],
        "explained_variance": np.concatenate([span.explained for span in spans]),
        "cumulative": np.concatenate([span.cumulative for span in spans]),
    }
    return Result.of(columns, note=_exhausted(heads, spans, m))


def _exhausted(heads: Sequence[KeptHead], spans: Sequence[Span], m: int) -> str | None:
    fewer = [
        (str(head.address), len(span.texts))
        for head, span in zip(heads, spans, strict=True)
        if span.exhausted
    ]
    if not fewer:
        return None
    address, texts = fewer[0]
    others = f" and {len(fewer) - 1} more heads" if len(fewer) > 1 else ""
    return (
        f"fewer than the {m} texts asked for at {address} ({texts}){others}: "
        "no other text of the pool explains anything more of them"
    )
