"""Ablation against literal float64 sums of everything that heads, layers and tokens write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from fabricated_store import SHAPE, Truth, fabricate, lean
from hypothesis import given, settings
from hypothesis import strategies as st
from world_store import ingest_scenes

from lensbase.api import Store, open_store
from lensbase.api.ablation import prepare
from lensbase.api.roles import role
from lensbase.api.run import RunView
from lensbase.queries.ablation import ablation_set, add_stored, column_plan
from lensbase.schema.components import Attention, Head, layer_terms
from lensbase.schema.errors import (
    BadAblation,
    BadAddress,
    BadQuestion,
    BadSelection,
    HeadNotStored,
    HeadTokensNotStored,
    LensbaseError,
    UnknownComponent,
    UnknownImage,
    UnknownRole,
    UnknownRun,
)

F64 = np.ndarray


@dataclass(frozen=True)
class Atoms:
    """All that a model's parts write, as finely as an ablation can name it: [parts, K, d']."""

    layers: int
    heads: int
    M: F64
    embed: F64
    mlp: F64  # [L, K, d']
    head: F64  # [L, H, K, d']
    own: F64  # of which from the class token itself [L, H, K, d']

    def removed(self, addresses: list[str]) -> F64:
        """Mark every atom that an address names, then add up what is marked, each once."""
        embed, mlp = False, np.zeros(self.layers, bool)
        own = np.zeros((self.layers, self.heads), bool)
        rest = own.copy()
        for address in addresses:
            name = address.lower()
            if name == "embed":
                embed = True
            elif name == "cls-token":
                own[:] = True
            elif name.startswith("attn"):
                picked = eval(f"np.arange({self.layers}){name[4:]}")
                own[picked] = rest[picked] = True
            elif name.startswith("mlp"):
                mlp[eval(f"np.arange({self.layers}){name[3:]}")] = True
            elif name.endswith(".attn"):
                own[int(name[1:-5])] = rest[int(name[1:-5])] = True
            elif name.endswith(".mlp"):
                mlp[int(name[1:-4])] = True
            else:
                layer, head = (int(part[1:]) for part in name.split("."))
                own[layer, head] = rest[layer, head] = True
        total = self.mlp[mlp].sum(0) + self.own[own].sum(0) + (self.head - self.own)[rest].sum(0)
        return total + self.embed if embed else total

    def ablated(self, addresses: list[str], *, zero: bool = False) -> F64:
        gone = self.removed(addresses)
        return self.M - gone if zero else self.M - gone + gone.mean(0)

    def error(self, found: object, wanted: F64) -> float:
        """The largest error of an image, in units of the mean length of a representation."""
        off = np.linalg.norm(np.asarray(found, np.float64) - wanted, axis=1).max()
        return float(off / np.linalg.norm(self.M, axis=1).mean())


def read_atoms(clip: RunView) -> Atoms:
    """Out of one run that kept heads and head-tokens of all layers, by the formulas."""
    run = clip._run
    L, H, e = run.shape.layers, run.shape.heads, run.shape.head_width
    rows = run.images.select().rows
    read = {name: run.arrays[name].read(rows).astype(np.float64) for name in run.arrays}
    mu, sigma = read["scale"][:, 0], read["scale"][:, 1]
    fixed = np.stack([mu / sigma, 1 / sigma, np.ones_like(mu)], 1)
    tokens = run.shape.patches + 1
    shape = (L, H, len(rows), run.shape.embed_dim)
    head, own = np.empty(shape), np.empty(shape)
    for layer in range(L):
        for h in range(H):
            B = run.head_basis[layer, h].astype(np.float64)
            u = read["head_value"][:, layer, h] / sigma[:, None]
            v = (
                read["head_token_weight"][:, layer, h, :1]
                * read["head_token_value"][:, layer, 0, h]
            )
            head[layer, h] = u @ B[:e] + fixed @ B[e:]
            own[layer, h] = v / sigma[:, None] @ B[:e] + fixed @ B[e:] / tokens
    term = read["layer"].transpose(1, 0, 2)
    return Atoms(L, H, read["representation"], term[0], term[2::2], head, own)


@pytest.fixture(scope="module", params=["float32", "float16"])
def world(
    request: pytest.FixtureRequest, scenes: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunView, Atoms, float]]:
    """A run that kept everything, its atoms, and the error that its storage may make."""
    root = tmp_path_factory.mktemp("ablation") / "full.lens"
    kept = {"head_tokens": "all", "storage": request.param, "tokens": False}
    ingest_scenes(scenes, root, **kept, where='"count" <= 2')
    with open_store(root) as store:
        clip = store.run()
        yield clip, read_atoms(clip), {"float32": 1e-5, "float16": 2e-3}[request.param]


def slices(kind: str) -> st.SearchStrategy[str]:
    bound = st.none() | st.integers(-8, 8)
    text = st.tuples(bound, bound, st.sampled_from([None, 1, 2, -1, 3])).map(
        lambda cut: ":".join("" if part is None else str(part) for part in cut)
    )
    return text.filter(lambda cut: eval(f"len(range(8)[{cut}])")).map(lambda cut: f"{kind}[{cut}]")


HEADS = st.builds("L{}.H{}".format, st.integers(0, 7), st.integers(0, 7))
LAYERS = st.builds("L{}.{}".format, st.integers(0, 7), st.sampled_from(["ATTN", "MLP"]))
KINDS = st.sampled_from(["attn", "mlp", "embed", "EMBED", "cls-token", "attn[3]", "mlp[-1]"])
SETS = st.lists(HEADS | LAYERS | KINDS | slices("attn") | slices("mlp"), min_size=1, max_size=6)


@given(addresses=SETS, zero=st.booleans())
@settings(max_examples=60)
def test_any_set_is_the_literal_sum(
    world: tuple[RunView, Atoms, float], addresses: list[str], zero: bool
) -> None:
    clip, atoms, allowed = world
    found = clip.ablate(addresses, zero=zero)
    error = atoms.error(found, atoms.ablated(addresses, zero=zero))
    assert error < allowed, f"{addresses}: off by {error:.1e} of a representation's length"


@given(addresses=SETS, extra=st.integers(0, 5))
@settings(max_examples=25)
def test_what_is_nested_or_named_twice_counts_once(
    world: tuple[RunView, Atoms, float], addresses: list[str], extra: int
) -> None:
    clip, atoms, _ = world
    again = [*addresses, *addresses[: extra + 1]]
    again += [f"{name}" for name in prepare(clip._run, addresses).addresses]
    found = np.asarray(clip.ablate(again[::-1]))
    error = atoms.error(found, np.asarray(clip.ablate(addresses), np.float64))
    assert error < 1e-6, f"{addresses} named twice: off by {error:.1e}"


def test_ablating_everything_leaves_the_mean(world: tuple[RunView, Atoms, float]) -> None:
    clip, atoms, allowed = world
    everything = ["embed", "attn", "mlp"]
    found = clip.ablate(everything)
    error = atoms.error(found, np.broadcast_to(atoms.M.mean(0), atoms.M.shape))
    assert error < allowed, f"off the mean representation by {error:.1e}"
    nothing = clip.ablate(everything, zero=True)
    error = atoms.error(nothing, np.zeros_like(atoms.M))
    assert error < allowed, f"off zero by {error:.1e}"


def test_ablating_nothing_changes_nothing(world: tuple[RunView, Atoms, float]) -> None:
    clip, _, _ = world
    assert np.array_equal(clip.ablate([]).values, clip.representation().values)


def test_the_class_tokens_share_adds_up(world: tuple[RunView, Atoms, float]) -> None:
    clip, atoms, allowed = world
    # Alone it is the stored array; with layers, the rest of it follows from head-tokens.
    error = atoms.error(clip.ablate("cls-token"), atoms.ablated(["cls-token"]))
    assert error < allowed, f"off by {error:.1e}"
    for addresses in (["cls-token", "attn[:4]"], ["cls-token", "L7.H3", "L6.ATTN", "mlp"]):
        moved = np.linalg.norm(atoms.removed(["cls-token"]), axis=1).mean()
        error = atoms.error(clip.ablate(addresses), atoms.ablated(addresses))
        assert error < allowed, f"{addresses}: off by {error:.1e}"
        assert moved > 100 * error * np.linalg.norm(atoms.M, axis=1).mean(), f"moves only {moved}"


def test_all_of_attention_holds_the_class_tokens_share(
    world: tuple[RunView, Atoms, float],
) -> None:
    clip, _, _ = world
    alone, together = clip.ablate("attn"), clip.ablate(["attn", "cls-token"])
    assert np.array_equal(alone.values, together.values)


@pytest.mark.parametrize("addresses", [["attn[:5]", "L7.H1"], ["mlp"], ["cls-token", "L7.H2"]])
def test_means_over_chosen_images(
    world: tuple[RunView, Atoms, float], addresses: list[str]
) -> None:
    clip, atoms, allowed = world
    ids = clip._run.images.select().image_ids
    chosen = ids[::3]
    gone = atoms.removed(addresses)
    wanted = atoms.M - gone + gone[::3].mean(0)
    error = atoms.error(clip.ablate(addresses, mean_over=chosen), wanted)
    assert error < allowed, f"off by {error:.1e}"
    part = clip.ablate(addresses, ids[5:9], mean_over=chosen)
    assert part.image_ids is not None
    assert part.image_ids.tolist() == ids[5:9].tolist()
    error = float(np.abs(part.values - clip.ablate(addresses, mean_over=chosen).values[5:9]).max())
    assert error < 1e-6, f"fewer rows change a number by {error:.1e}"


def test_images_keep_their_order_and_where_picks(world: tuple[RunView, Atoms, float]) -> None:
    clip, atoms, allowed = world
    whole = clip.ablate("mlp").values
    ids = clip._run.images.select().image_ids
    found = clip.ablate("mlp", [int(ids[7]), int(ids[2]), int(ids[7])]).values
    assert np.allclose(found, whole[[7, 2, 7]], atol=1e-6)
    picked = clip.ablate("mlp", where='"count" = 1')
    wanted = clip.images.df().query("count == 1").image_id.tolist()
    assert picked.image_ids is not None
    assert picked.image_ids.tolist() == wanted
    # The means stay those of the run, whichever images are asked for.
    at = np.isin(ids, wanted)
    error = atoms.error(picked, atoms.ablated(["mlp"])[at])
    assert error < allowed, f"off by {error:.1e}"


# Reading


@given(st.sets(st.integers(0, 24), max_size=25), st.booleans())
def test_a_plan_reads_each_term_once(terms: set[int], running: bool) -> None:
    plan = column_plan(sorted(terms), running_sums=running)
    counted = np.zeros(25, int)
    counted[list(plan.terms)] += 1
    for sign, kind, layer in plan.sums:
        counted[[1 + kind + 2 * below for below in range(layer + 1)]] += sign
    assert counted.tolist() == [int(term in terms) for term in range(25)]
    assert running or not plan.sums


@given(st.integers(0, 11), st.integers(0, 11), st.booleans())
def test_a_slice_of_a_kind_is_two_columns_at_most(first: int, last: int, mlp: bool) -> None:
    name = f"{'mlp' if mlp else 'attn'}[{min(first, last)}:{max(first, last) + 1}]"
    parts = ablation_set([name], layers=12, heads=2)
    plan = column_plan(parts.terms, running_sums=True)
    columns = len(plan.terms) + len(plan.sums)
    assert columns <= 2, f"{name} reads {columns} columns"


@pytest.mark.parametrize("sign", [1, -1])
def test_every_float16_is_added_exactly(sign: int) -> None:
    every = np.arange(65536, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)][:63232].reshape(-1, 64)  # several blocks and a part of one
    out = np.full(finite.shape, 0.25, np.float32)
    wanted = np.float32(0.25) + sign * finite.astype(np.float32)
    add_stored(out, finite, sign=sign)
    assert np.array_equal(out, wanted)


def test_sets_are_canonical() -> None:
    parts = ablation_set(["L1.h0", " l0.attn", "L0.H1", "mlp[::2]", "Embed"], layers=3, heads=2)
    assert parts.addresses(3) == ("EMBED", "L0.ATTN", "L0.MLP", "L2.MLP", "L1.H0")
    assert parts.heads == (Head(1, 0),)
    assert ablation_set(["cls"], layers=3, heads=2).addresses(3) == ("CLS",)
    # Every head named one by one covers the class token's share too.
    heads = [f"L{layer}.H{head}" for layer in range(3) for head in range(2)]
    assert not ablation_set([*heads, "cls-token"], layers=3, heads=2).class_token


# A store of random numbers: rejected rows, what was not kept, other ways to name things


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Truth]]:
    root = tmp_path_factory.mktemp("ablation") / "x.lens"
    truth = fabricate(root)
    with open_store(root) as store:
        yield store, truth


def test_rejected_images_are_in_no_mean(made: tuple[Store, Truth]) -> None:
    store, truth = made
    found = store.run().ablate(["mlp", "L2.H1"])
    rows = truth.rows_by_id
    gone = truth.arrays["layer"][rows, 2::2].sum(1) + truth.contribution(2, 1)[rows]
    wanted = truth.arrays["representation"][rows] - gone + gone.mean(0)
    error = np.abs(found.values - wanted).max()
    assert error < 0.02, f"off by {error:.1e}"  # float16 sums of numbers of size 3 to 6
    assert np.isfinite(found.values).all()
    assert len(found) == truth.ok.sum()


def test_a_run_without_running_sums_gives_the_same(tmp_path: Path) -> None:
    answers = []
    for name, kept in (("new", True), ("old", False)):
        shape = replace(SHAPE, layer_sums=kept)
        fabricate(tmp_path / name, shape=shape)
        with open_store(tmp_path / name) as store:
            assert store.run()._run.shape.layer_sums is kept
            answers.append(store.run().ablate(["mlp", "attn[:2]"]).values)
    error = np.abs(answers[0] - answers[1]).max()
    assert error < 0.02, f"differ by {error:.1e}"


def test_components_may_be_objects(made: tuple[Store, Truth]) -> None:
    clip = made[0].run()
    wanted = clip.ablate(["L2.H1", "L0.ATTN"]).values
    ways = (
        [clip.head("L2.H1"), Attention(0)],
        (Head(2, 1), "attn[0]"),
        ["world-demo:L2.H1", "world-demo:attn[:1]"],
        {"l2.h1", "L0.ATTN"},
    )
    for way in ways:
        assert np.array_equal(clip.ablate(way).values, wanted), way
    table = made[0].sql("SELECT component FROM heads WHERE layer = 2 AND head = 1")
    assert np.array_equal(clip.ablate(table).values, clip.ablate("L2.H1").values)


def test_roles_stand_for_their_components(tmp_path: Path) -> None:
    fabricate(tmp_path / "x.lens")
    with open_store(tmp_path / "x.lens") as store:
        store.annotate("L2.H1", role="background")
        store.annotate("L1.MLP", role="background")
        clip = store.run()
        wanted = clip.ablate(["L2.H1", "L1.MLP"]).values
        assert np.array_equal(clip.ablate(role("background")).values, wanted)
        assert np.array_equal(clip.ablate([role("background"), "L2.H1"]).values, wanted)
        with pytest.raises(UnknownRole, match="nothing"):
            clip.ablate(role("nothing"))
        with pytest.raises(BadAddress, match=r"is no component but a role: .*role\('background'\)"):
            clip.ablate(["L2.H1", "background"])
        store.annotate(["L1.H1", "L1.N5"], role="mixed")
        with pytest.raises(
            BadAblation, match=r"role\('mixed'\) has L1\.N5, which cannot be ablated"
        ):
            clip.ablate(["mlp", role("mixed")])
        store.annotate("L0.H1", role="early")
        with pytest.raises(HeadNotStored, match=r"role\('early'\) has L0\.H1.*--heads 0,1,2"):
            clip.ablate(role("early"))


@pytest.mark.parametrize(
    ("components", "error", "says"),
    [
        ("L9.H0", UnknownComponent, "its layers are 0 to 2"),
        ("L2.H7", UnknownComponent, "heads of each 0 to 1"),
        ("L3.MLP", UnknownComponent, "the model has no 'L3.MLP'"),
        ("attn[3]", UnknownComponent, "past the model's layers, which are 0 to 2"),
        ("mlp[5:]", UnknownComponent, "picks none"),
        ("mlp[a:]", BadAddress, "no slice"),
        ("attn[::0]", BadAddress, "no slice"),
        ("msa", BadAddress, "layers of a kind as attn\\[:20\\].*role\\('NAME'\\)"),
        ("other:L2.H1", UnknownRun, "ask store.run\\('other'\\)"),
        ("L1.N5", BadAblation, "only that of its whole layer, L1.MLP"),
        ("T4", BadAblation, "image.heatmap"),
        (7, BadAddress, "names no component"),
        ("L0.H1", HeadNotStored, "--run NEW_NAME --heads 0,1,2"),
        (["cls-token", "L1.H0"], HeadTokensNotStored, "--head-tokens 1,2"),
        (["cls-token", "attn[:1]"], HeadTokensNotStored, "in layer 0"),
    ],
)
def test_what_cannot_be_ablated_is_named(
    made: tuple[Store, Truth], components: object, error: type[LensbaseError], says: str
) -> None:
    with pytest.raises(error, match=says):
        made[0].run().ablate(components)


def test_bad_means_are_named(made: tuple[Store, Truth]) -> None:
    clip = made[0].run()
    with pytest.raises(BadQuestion, match="zero=True puts no means back"):
        clip.ablate("mlp", mean_over=[100], zero=True)
    with pytest.raises(BadSelection, match="mean_over= selects no image"):
        clip.ablate("mlp", mean_over=[])
    with pytest.raises(UnknownImage, match="holds no image 7"):
        clip.ablate("mlp", mean_over=[7])


def test_a_class_token_beside_heads_needs_their_tokens(tmp_path: Path) -> None:
    fabricate(tmp_path / "x.lens", shape=lean())
    with open_store(tmp_path / "x.lens") as store:
        clip = store.run()
        with pytest.raises(HeadTokensNotStored, match="kept that of no layer"):
            clip.ablate(["cls-token", "L2.H0"])
        assert clip.ablate(["cls-token", "mlp"]).shape == (68, 16)


def test_names_of_terms_are_the_stores() -> None:
    every = ablation_set(["embed", "attn", "mlp"], layers=4, heads=1)
    assert list(every.addresses(4)) == layer_terms(4)
