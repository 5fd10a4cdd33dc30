"""TEXTSPANs that the catalogue holds whole: asked for more, it answers and keeps nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

from lensbase.api import open_store
from lensbase.schema.derived import derived_results
from lensbase.schema.layout import Layout


def test_a_head_whose_dimensions_are_all_explained_is_not_computed_again(
    neuron_store: Path, tmp_path: Path
) -> None:
    """An ingest keeps up to 20 texts for a head; one of the world has 16 + 3 dimensions."""
    root = tmp_path / "s.lens"
    shutil.copytree(neuron_store, root, symlinks=True)
    with open_store(root) as store:
        found = store.run().head("L7.H4").textspan(m=30)
        assert len(found) == 19
        note = "19 of the 30 texts asked for: no other text of the pool explains anything more"
        assert (found.note or "").startswith(note)
        assert len(store.run().textspan(m=30)) == 19 * 64
        heads = store.sql("SELECT layer, head FROM heads").rows()
        assert heads == sorted(heads, key=lambda row: (row["layer"], row["head"]))
    assert not list(derived_results(Layout(root), "head_text"))
