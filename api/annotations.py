"""Roles of components: written beside the catalogue, so that no generation is made for one."""

# pyarrow has no types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from ..schema.components import (
    Attention,
    Component,
    Head,
    Mlp,
    Neuron,
    Token,
    check_name,
    parse_component,
    split_run,
)
from ..schema.derived import write_derived
from ..schema.errors import (
    AnnotationNotKept,
    BadQuestion,
    UnknownComponent,
    UnknownRole,
    UnknownRun,
)
from ..schema.layout import Layout
from .derived_views import ANNOTATION

if TYPE_CHECKING:
    from .open_run import OpenRun

Annotated: TypeAlias = Any
"""An address, a `HeadView`, a list of them, or rows (a Result, a frame) with `component`."""


def addresses_of(components: Annotated) -> list[str]:
    """The addresses that components are given by; raises `BadQuestion` for anything else."""
    if isinstance(components, str):
        return [components]
    if isinstance(found := getattr(components, "address", None), str):
        return [found]
    if isinstance(components, Mapping):
        return addresses_of(components.get("component"))
    columns: Any = getattr(components, "columns", ())
    if "component" in list(columns):
        return [str(address) for address in components["component"]]
    if isinstance(components, Iterable):
        return [address for one in components for address in addresses_of(one)]
    msg = (
        f"{components!r} names no component; give an address such as 'L21.H11', a list of them, "
        "or rows with a column `component`."
    )
    raise BadQuestion(msg)


def annotate(
    run: OpenRun,
    components: Annotated,
    role: str | None,
    *,
    source: str = "person",
    note: str | None = None,
) -> list[str]:
    """Give components of a run a role, or none (None); return their addresses.

    The latest annotation of a component counts. Raises `BadAddress`, `UnknownComponent`,
    `UnknownRun`, `BadName`, `BadQuestion`, or `AnnotationNotKept` where the store cannot be
    written to.
    """
    if role is not None:
        check_name(role, kind="role")
    addresses = list(dict.fromkeys(_known(run, one) for one in addresses_of(components)))
    if not addresses:
        msg = "no component was given to annotate."
        raise BadQuestion(msg)
    write_annotation(
        run.layout,
        addresses,
        run=run.name,
        weights_sha256=run.row["weights_sha256"],
        role=role,
        source=source,
        note=note,
        created=_after_the_latest(run),
    )
    return addresses


def write_annotation(
    layout: Layout,
    addresses: list[str],
    *,
    run: str,
    weights_sha256: str,
    role: str | None,
    source: str,
    note: str | None,
    created: datetime,
) -> None:
    """Keep a role of some components beside the catalogue; raises `AnnotationNotKept`."""
    import pyarrow as pa

    count = len(addresses)
    rows = pa.table(
        {
            "component": pa.array(addresses, pa.string()),
            "role": pa.array([role] * count, pa.string()),
            "source": pa.array([source] * count, pa.string()),
            "note": pa.array([note] * count, pa.string()),
            "created_at": pa.array([created] * count, pa.timestamp("us")),
        }
    )
    # A role belongs to the model's weights, whatever images it was seen on.
    parameters = {
        "run": run,
        "weights_sha256": weights_sha256,
        "components": addresses,
        "role": role,
        "source": source,
        "note": note,
        "created_at": created.isoformat(),
    }
    if not write_derived(layout, ANNOTATION, parameters, rows=rows):
        folder = layout.derived(ANNOTATION, "").parent
        msg = (
            f"{', '.join(addresses)} could not be annotated: {folder} cannot be written to. "
            f"`lensbase copy {layout.root} DEST` makes a copy that can be."
        )
        raise AnnotationNotKept(msg)


def with_role(run: OpenRun, name: str) -> list[str]:
    """Addresses of the run's components with a role, by layer and head; raises `UnknownRole`."""
    found = run.console.query(
        """SELECT component FROM annotations WHERE run = ? AND role = ?
           ORDER BY layer, head, component""",
        [run.name, name],
    )
    if found.num_rows:
        return found.column("component").to_pylist()
    roles = run.console.query(
        "SELECT DISTINCT role FROM annotations WHERE run = ? ORDER BY role", [run.name]
    )
    listed = ", ".join(roles.column("role").to_pylist()) or "none"
    msg = (
        f"no component of run {run.name!r} has the role {name!r}; its roles: {listed}. "
        f"store.annotate(ADDRESSES, role={name!r}) gives it to some."
    )
    raise UnknownRole(msg)


def _after_the_latest(run: OpenRun) -> datetime:
    """Now, or just after the run's latest annotation where its clock was ahead."""
    found = run.console.query(
        "SELECT max(created_at) AS latest FROM annotation WHERE run_id = ?", [run.row["run_id"]]
    )
    latest: datetime | None = found.column("latest")[0].as_py()
    present = datetime.now(UTC).replace(tzinfo=None)
    return present if latest is None else max(present, latest + timedelta(microseconds=1))


def _known(run: OpenRun, address: str) -> str:
    """The address of a component of the run's model as it is always spelled."""
    named, text = split_run(address)
    if named is not None and named != run.name:
        msg = f"{address!r} is of another run than {run.name!r}; annotate it with run={named!r}."
        raise UnknownRun(msg)
    component = parse_component(text)
    if not _exists(run, component):
        shape = run.shape
        msg = (
            f"the model of run {run.name!r} has no {component}: its layers are 0 to "
            f"{shape.layers - 1}, its heads 0 to {shape.heads - 1}, "
            f"its image tokens 0 to {shape.patches - 1}."
        )
        raise UnknownComponent(msg)
    return str(component)


def _exists(run: OpenRun, component: Component) -> bool:
    # How many neurons a layer has is not kept: only their layer can be checked.
    if isinstance(component, Head) and component.head >= run.shape.heads:
        return False
    if isinstance(component, Token):
        return component.token < run.shape.patches
    if isinstance(component, Head | Neuron | Attention | Mlp):
        return component.layer < run.shape.layers
    return True
