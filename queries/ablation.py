"""Ablation as algebra: which terms a set of components removes, and what to read for it.

Direct effects add up to the representation (T2.4), so replacing those of a set by their means is
`M(I) - sum_c c(I) + sum_c mean(c)`, without a model (`docs/mathematics.md`, "Ablation"). A set is
a set: what lies inside another of its members counts once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..schema.components import (
    Attention,
    ClassToken,
    Component,
    Embed,
    Head,
    Mlp,
    Neuron,
    Token,
    layer_terms,
    parse_component,
)
from ..schema.errors import BadAblation, BadAddress, UnknownComponent

Numbers: TypeAlias = npt.NDArray[np.floating[Any]]
F32 = npt.NDArray[np.float32]

_HALVES = 128  # rows whose conversion stays in the processor's cache
_SIGN_AND_SIZE = np.array(0x8FFFE000, np.uint32).view(np.int32)
_BIAS = np.float32(2.0 ** (127 - 15))

_KIND = re.compile(r"(attn|mlp)(?:\[([^\]]*)\])?", re.IGNORECASE)
_CUT = re.compile(r"(-?\d{1,9})?:(-?\d{1,9})?(?::(-?\d{1,9})?)?")
_KINDS = (Attention, Mlp)
_FORMS = (
    "write a head as L22.H8, a layer as L22.ATTN or L22.MLP, a kind as attn, mlp or embed, "
    "layers of a kind as attn[:20] or mlp[-2:], the class token's share of attention as cls-token, "
    "and everything that has a role as role('NAME')."
)


@dataclass(frozen=True)
class AblationSet:
    """What a set of components removes, each part once.

    `terms` are places among the 2L+1 residual terms, ascending; `heads` those of no attention
    term among them; `class_token` whether what the class token attends from itself goes too.
    `covered` are the heads whose part of it is removed already: those of `heads` and of the
    attention terms.
    """

    terms: tuple[int, ...] = ()
    heads: tuple[Head, ...] = ()
    class_token: bool = False
    covered: tuple[Head, ...] = ()

    @property
    def only_heads(self) -> bool:
        """Whether it is made of single heads and nothing else."""
        return bool(self.heads) and not self.terms and not self.class_token

    def addresses(self, layers: int) -> tuple[str, ...]:
        """One address for each part, in the order of the residual terms, heads after these."""
        names = layer_terms(layers)
        own = [names[term] for term in self.terms] + [str(head) for head in self.heads]
        return (*own, str(ClassToken())) if self.class_token else tuple(own)


@dataclass(frozen=True)
class ColumnPlan:
    """Which columns add up to a set of residual terms.

    `terms` are places in the array `layer`; `sums` are (sign, kind, layer) of the running sums
    `layer_sum`, kind 0 being attention and 1 the MLPs.
    """

    terms: tuple[int, ...]
    sums: tuple[tuple[int, int, int], ...]


def ablation_set(addresses: Iterable[str], *, layers: int, heads: int) -> AblationSet:
    """Read addresses, kinds and slices as a set for a model of `layers` x `heads`.

    Raises `BadAddress`, `UnknownComponent`, or `BadAblation` for neurons and patches, whose
    direct effects are not kept.
    """
    terms: set[int] = set()
    single: set[Head] = set()
    class_token = False
    for address in addresses:
        for component in _components(address, layers):
            if isinstance(component, ClassToken):
                class_token = True
            elif isinstance(component, Head):
                _check(component.layer < layers and component.head < heads, address, layers, heads)
                single.add(component)
            else:
                terms.add(_term(component, address, layers, heads))
    own = {head for head in single if 1 + 2 * head.layer not in terms}
    covered = own | {Head(t // 2, h) for t in terms if t % 2 for h in range(heads)}
    if len(covered) == layers * heads:
        class_token = False  # all that any head writes is gone
    return AblationSet(
        tuple(sorted(terms)), tuple(sorted(own)), class_token, tuple(sorted(covered))
    )


def column_plan(terms: Sequence[int], *, running_sums: bool) -> ColumnPlan:
    """The fewest columns for a set of terms; single terms where they cost no more.

    A run of consecutive layers of a kind is one running sum, or the difference of two. Rounding
    makes a single term more exact than a difference of sums, so short runs are read as terms.
    """
    single = [term for term in terms if term == 0]
    sums: list[tuple[int, int, int]] = []
    for kind in range(len(_KINDS)):
        chosen = sorted((term - 1 - kind) // 2 for term in terms if term and (term - 1) % 2 == kind)
        for first, last in _consecutive(chosen):
            length = last - first + 1
            if not running_sums or length <= (1 if first == 0 else 2):
                single += [1 + kind + 2 * layer for layer in range(first, last + 1)]
                continue
            sums.append((1, kind, last))
            if first:
                sums.append((-1, kind, first - 1))
    return ColumnPlan(tuple(sorted(single)), tuple(sums))


def stacked_basis(bases: Numbers) -> F32:
    """One matrix [n*e+3, d'] for n heads out of their bases [n, e+3, d'].

    The last three factors are those of the image, the same for every head, so their rows add up.
    """
    bases = np.asarray(bases, np.float64)
    width = bases.shape[1] - 3
    own = bases[:, :width].reshape(-1, bases.shape[2])
    return np.concatenate([own, bases[:, width:].sum(0)]).astype(np.float32)


def stacked_factors(values: Sequence[Numbers], scale: Numbers, *, share: float = 1.0) -> F32:
    """Factors [k, n*e+3] that go with `stacked_basis`: the sum of n heads is one product.

    `values` are n arrays u [k, e], `scale` [k, 2 or more] holds mu and sigma. `share` is the part
    of the shared constants that the values come with: 1/(T+1) for those of a single token.
    """
    width = values[0].shape[1] if values else 0
    mu, sigma = (np.asarray(scale[:, place], np.float32) for place in range(2))
    factors = np.empty((len(scale), len(values) * width + 3), np.float32)
    for place, value in enumerate(values):
        part = factors[:, place * width : (place + 1) * width]
        np.divide(value, sigma[:, None], out=part, casting="same_kind")
    factors[:, -3] = share * (mu / sigma)
    factors[:, -2] = share / sigma
    factors[:, -1] = share
    return factors


def add_stored(out: F32, part: Numbers, *, sign: int) -> None:
    """Add stored values [k, d'] to `out`, or subtract them; a float16 row of NaN gives no NaN.

    NumPy turns float16 into float32 one number at a time. Shifting all bits into place at once,
    and multiplying by the difference of the exponents' biases, is exact and twice as fast.
    """
    combine = np.add if sign > 0 else np.subtract
    if part.dtype != np.float16:
        combine(out, part, out=out)
        return
    bits = np.empty((min(_HALVES, len(part)), part.shape[1]), np.int32)
    for start in range(0, len(part), _HALVES):
        half = part[start : start + _HALVES].view(np.int16)
        block = bits[: len(half)]
        np.left_shift(half, 13, out=block, dtype=np.int32)
        np.bitwise_and(block, _SIGN_AND_SIZE, out=block)
        single = block.view(np.float32)
        np.multiply(single, _BIAS, out=single)
        into = out[start : start + _HALVES]
        combine(into, single, out=into)


def mean_in_blocks(
    effect: Callable[[npt.NDArray[np.int64]], Numbers],
    rows: npt.NDArray[np.int64],
    *,
    block: int,
) -> npt.NDArray[np.float64]:
    """The mean [d'] of an effect over some rows, at least one, a block of rows at a time."""
    total: npt.NDArray[np.float64] | None = None
    for start in range(0, len(rows), block):
        part = effect(rows[start : start + block]).sum(0, dtype=np.float64)
        total = part if total is None else total + part
    assert total is not None
    return total / len(rows)


def _components(address: str, layers: int) -> list[Component]:
    text = address.strip()
    if text.lower() in ("cls-token", "cls"):
        return [ClassToken()]
    if match := _KIND.fullmatch(text):
        kind = _KINDS[match[1].lower() == "mlp"]
        if match[2] is None:
            return [kind(layer) for layer in range(layers)]
        return [kind(layer) for layer in _cut(text, match[2].strip(), layers)]
    try:
        return [parse_component(text)]
    except BadAddress as error:
        msg = f"{address!r} names nothing that can be ablated; {_FORMS}"
        raise BadAddress(msg) from error


def _cut(address: str, inside: str, layers: int) -> Sequence[int]:
    """The layers that an index or a slice picks, as Python reads it."""
    every = range(layers)
    if re.fullmatch(r"-?\d{1,9}", inside):
        place = int(inside)
        if not -layers <= place < layers:
            msg = f"{address!r} is past the model's layers, which are 0 to {layers - 1}."
            raise UnknownComponent(msg)
        return [every[place]]
    match = _CUT.fullmatch(inside.replace(" ", ""))
    if match is None or (match[3] is not None and int(match[3]) == 0):
        msg = f"{address!r} holds no slice that Python could read; {_FORMS}"
        raise BadAddress(msg)
    picked = every[slice(*(None if part is None else int(part) for part in match.groups()))]
    if not picked:
        msg = f"{address!r} picks none of the model's layers, which are 0 to {layers - 1}."
        raise UnknownComponent(msg)
    return picked


def _term(component: Component, address: str, layers: int, heads: int) -> int:
    """The place of a component among the residual terms."""
    if isinstance(component, Embed):
        return 0
    if isinstance(component, Attention | Mlp):
        _check(component.layer < layers, address, layers, heads)
        return 1 + 2 * component.layer + isinstance(component, Mlp)
    if isinstance(component, Neuron):
        msg = (
            f"{address!r} is a neuron: its own direct effect is not kept, only that of its whole "
            f"layer, L{component.layer}.MLP. What it does through later heads is a question "
            "about second-order effects, not an ablation of direct ones."
        )
        raise BadAblation(msg)
    assert isinstance(component, Token)
    msg = (
        f"{address!r} is a patch: what each patch writes is shown by image.heatmap(text). "
        "Ablations are of heads, layers, kinds of layers, and cls-token."
    )
    raise BadAblation(msg)


def _check(known: bool, address: str, layers: int, heads: int) -> None:
    if not known:
        msg = (
            f"the model has no {address!r}: its layers are 0 to {layers - 1} and the heads of "
            f"each 0 to {heads - 1}."
        )
        raise UnknownComponent(msg)


def _consecutive(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each run of consecutive numbers, which are ascending."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
