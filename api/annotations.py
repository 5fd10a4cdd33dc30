"""Roles of components: written beside the catalogue, so that no generation is made for one."""

# pyarrow has no types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

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
from ..schema.errors import BadName, BadQuestion, UnknownComponent, UnknownRole, UnknownRun
from ..schema.role_files import write_annotation
from .named_components import Components, addresses_of
from .sql_text import encodable

if TYPE_CHECKING:
    from .open_run import OpenRun


def annotate(
    run: OpenRun,
    components: Components,
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
    _check_said(role, source=source, note=note)
    addresses = list(dict.fromkeys(_known(run, one) for one in addresses_of(run, components)))
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


def _check_said(role: object, *, source: object, note: object) -> None:
    """Raise `BadName` or `BadQuestion` for what cannot be kept of a component."""
    if isinstance(role, str):
        check_name(role, kind="role")
    elif role is not None:
        msg = f"{role!r} cannot name a role: give a word such as 'geolocation', or None to remove."
        raise BadName(msg)
    for name, text in (("source", source), ("note", note)):
        if text is None and name == "note":
            continue
        if not isinstance(text, str) or not encodable(text):
            msg = f"{name} = {text!r} is no text that can be kept; give one of whole characters."
            raise BadQuestion(msg)


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
