"""Ablation from a store: representations with some direct effects replaced by their means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ..queries.ablation import (
    AblationSet,
    ablation_set,
    add_stored,
    column_plan,
    mean_in_blocks,
    stacked_basis,
    stacked_factors,
)
from ..schema.components import Head
from ..schema.errors import (
    BadAblation,
    BadAddress,
    BadQuestion,
    BadSelection,
    HeadNotStored,
    HeadTokensNotStored,
    LensbaseError,
    UnknownRole,
    UnknownRun,
)
from .named_components import Components, addresses_of, parts_of
from .open_run import KeptHead, OpenRun
from .printing import keeping, layers_named
from .roles import Role
from .selection import Selection

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Rows: TypeAlias = npt.NDArray[np.int64]

BLOCK = 2048
"""Rows that are worked on at once: what they need stays in the processor's cache."""
_STACKED = 64  # heads in one product, so that its factors stay small too


@dataclass(frozen=True, eq=False)
class _Heads:
    """Kept heads whose sum is one product, for whole values or for one token's part of them."""

    heads: tuple[KeptHead, ...]
    basis: F32


class Ablation:
    """A set of components to take out of a run's representations.

    `addresses` names each part once; `parts` is the set itself.
    """

    def __init__(self, run: OpenRun, parts: AblationSet) -> None:
        self._run = run
        self.parts = parts
        self.addresses = parts.addresses(run.shape.layers)
        self._plan = column_plan(parts.terms, running_sums=run.shape.layer_sums)
        self._heads = [_Heads(heads, _basis(run, heads)) for heads in _kept(run, parts.heads)]
        self._overlap = _overlap(run, parts) if parts.class_token else {}
        self._constant: F32 | None = None

    def representations(self, rows: Rows) -> F32:
        """The representations [k, d'] of stored rows after the ablation."""
        out = np.empty((len(rows), self._run.shape.embed_dim), np.float32)
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            self.apply(self._run.arrays["representation"].read(block), block, out=out[start:])
        return out

    def apply(self, representation: F32, rows: Rows, *, out: F32) -> F32:
        """Ablate representations [k, d'] that were read already; they are of these rows.

        Fills and returns the first k rows of `out`, which may be `representation` itself.
        """
        out = out[: len(rows)]
        if self._constant is None:
            np.copyto(out, representation)
        else:
            np.add(representation, self._constant, out=out)
        self._take(out, rows, -1)
        return out

    def keep_means(self, selection: Selection | None) -> None:
        """Put back the means over a selection of images, or over all of the run's."""
        if not self.addresses:
            return
        if selection is None:
            mean = self._stored_means()
        else:
            if not len(selection):
                msg = "mean_over= selects no image, so nothing has a mean; name some, or leave it."
                raise BadSelection(msg)
            mean = mean_in_blocks(self._effect, np.sort(selection.rows), block=BLOCK)
        self._constant = mean.astype(np.float32)

    def _stored_means(self) -> F64:
        """Means over the run that no pass over its images is needed for, the overlap's aside."""
        means = self._run.term_means
        total = means[list(self.parts.terms)].sum(0)
        if self.parts.class_token:
            total += means[-1]
        for group in self._heads:
            for head in group.heads:
                moment = self._run.moment(head)[0, -1]
                total += (moment[:-1] / moment[-1]) @ self._run.basis(head).astype(np.float64)
        if self._overlap:
            total -= mean_in_blocks(self._shared, self._everything, block=BLOCK)
        return total

    @cached_property
    def _everything(self) -> Rows:
        return np.sort(self._run.images.select().rows)

    def _effect(self, rows: Rows) -> F32:
        """The sum [k, d'] of the direct effects of the set."""
        out = np.zeros((len(rows), self._run.shape.embed_dim), np.float32)
        self._take(out, rows, 1)
        return out

    def _take(self, out: F32, rows: Rows, sign: int) -> None:
        """Add the effects of the set to `out` [k, d'], or subtract them."""
        arrays = self._run.arrays
        for term in self._plan.terms:
            add_stored(out, arrays["layer"].read(rows, term), sign=sign)
        for own, kind, layer in self._plan.sums:
            add_stored(out, arrays["layer_sum"].view(rows, kind, layer), sign=sign * own)
        if self.parts.class_token:
            add_stored(out, arrays["cls_token"].view(rows), sign=sign)
        if self._heads or self._overlap:
            scale = arrays["scale"].read(rows)
            for group in self._heads:
                values = [
                    arrays["head_value"].view(rows, head.place, head.address.head)
                    for head in group.heads
                ]
                add_stored(out, stacked_factors(values, scale) @ group.basis, sign=sign)
        if self._overlap:
            add_stored(out, self._shared(rows), sign=-sign)

    def _shared(self, rows: Rows) -> F32:
        """What is both the class token's and of a head or layer that goes anyway [k, d']."""
        arrays = self._run.arrays
        scale = arrays["scale"].read(rows)
        out = np.zeros((len(rows), self._run.shape.embed_dim), np.float32)
        for place, group in self._overlap.items():
            weight = arrays["head_token_weight"].read(rows, place, slice(None), 0)
            value = arrays["head_token_value"].read(rows, place, 0)
            parts = [
                weight[:, head, None].astype(np.float32) * value[:, head]
                for head in (kept.address.head for kept in group.heads)
            ]
            share = 1 / (self._run.shape.patches + 1)
            out += stacked_factors(parts, scale, share=share) @ group.basis
        return out


def prepare(
    run: OpenRun,
    components: Components,
    *,
    mean_over: Selection | None = None,
    zero: bool = False,
) -> Ablation:
    """Get ready to ablate a set: check it, fold its bases, and take the means to put back.

    `mean_over` are the images whose means replace the effects, by default all of the run;
    `zero` puts nothing back. Raises `BadAddress`, `UnknownComponent`, `UnknownRun`, `BadAblation`,
    `HeadNotStored`, `HeadTokensNotStored`, `BadSelection` or `BadQuestion`.
    """
    if zero and mean_over is not None:
        msg = "zero=True puts no means back, so mean_over= has nothing to say; give one of them."
        raise BadQuestion(msg)
    parts = parts_of(components)
    try:
        made = _prepared(run, addresses_of(run, parts))
    except (BadAddress, BadAblation, HeadNotStored) as error:
        raise _explained(run, parts, error) from error
    if not zero:
        made.keep_means(mean_over)
    return made


def _prepared(run: OpenRun, addresses: Iterable[str]) -> Ablation:
    own = [_of_this_run(run, address) for address in addresses]
    return Ablation(run, ablation_set(own, layers=run.shape.layers, heads=run.shape.heads))


def _explained(run: OpenRun, parts: Iterable[str | Role], error: LensbaseError) -> LensbaseError:
    """An error about a set, told with the role that is behind it, where one is."""
    for part in parts:
        if isinstance(part, Role):
            for address in run.roles(part.name):
                try:
                    _prepared(run, [address])
                except LensbaseError as own:
                    return type(own)(f"{part} has {address}, which cannot be ablated: {own}")
        elif isinstance(error, BadAddress) and _is_role(run, part):
            return BadAddress(f"{part!r} is no component but a role: ablate=role({part!r}).")
    return error


def _is_role(run: OpenRun, name: str) -> bool:
    try:
        return bool(run.roles(name))
    except UnknownRole:
        return False


def _of_this_run(run: OpenRun, address: str) -> str:
    """An address without the run's name; raises `UnknownRun` for that of another run."""
    before, colon, after = address.partition(":")
    if not colon or "[" in before:
        return address
    if before.strip() != run.name:
        msg = f"{address!r} is of another run than {run.name!r}; ask store.run({before.strip()!r})."
        raise UnknownRun(msg)
    return after


def _kept(run: OpenRun, heads: Iterable[Head]) -> list[tuple[KeptHead, ...]]:
    """Heads as the run keeps them, in groups for one product each; raises `HeadNotStored`."""
    found = [run.head(str(head)) for head in heads]
    return [tuple(found[at : at + _STACKED]) for at in range(0, len(found), _STACKED)]


def _basis(run: OpenRun, heads: Iterable[KeptHead]) -> F32:
    return stacked_basis(np.stack([run.basis(head) for head in heads]))


def _overlap(run: OpenRun, parts: AblationSet) -> dict[int, _Heads]:
    """By place in the head-token arrays, the heads whose share of cls-token goes already."""
    needed = sorted({head.layer for head in parts.covered})
    kept = run.shape.head_token_layers
    if missing := [layer for layer in needed if layer not in kept]:
        msg = (
            "cls-token is a part of every attention layer, so together with heads or layers it "
            f"would count twice in layer {', '.join(map(str, missing))}. What heads attend token "
            f"by token tells the two apart; run {run.name!r} kept that of "
            f"{layers_named(kept)}. {keeping('--head-tokens', {*kept, *needed})}"
        )
        raise HeadTokensNotStored(msg)
    found: dict[int, _Heads] = {}
    for layer in needed:
        heads = tuple(run.head(str(head)) for head in parts.covered if head.layer == layer)
        found[kept.index(layer)] = _Heads(heads, _basis(run, heads))
    return found
