"""Copying Rosetta zoos: whole, since their units were compared on pictures of their own."""

from __future__ import annotations

import shutil

from ..schema import durable, manifest
from ..schema.catalog import publishing
from ..schema.layout import Layout
from ..schema.manifest import read_manifest
from ..schema.zoo_files import committed_groups, manifest_of, published_zoos
from ..schema.zoos import forget_zoo


def copy_zoos(origin: Layout, layout: Layout, *, keep: bool) -> None:
    """Copy the files of every zoo of a copied catalogue, or take the zoos out of it."""
    zoos = published_zoos(layout)
    if zoos and not keep:
        with publishing(layout) as draft:
            for name in zoos:
                forget_zoo(draft, name)
        return
    for zoo in zoos.values():
        for group in committed_groups(origin, zoo):
            known = read_manifest(manifest_of(group))
            for entry in known.files:
                target = layout.root / entry.path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(origin.root / entry.path, target)
                durable.sync_file(target)
            place = layout.root / manifest_of(group).relative_to(origin.root)
            manifest.commit(layout, place, files=known.files, facts=known.facts)
