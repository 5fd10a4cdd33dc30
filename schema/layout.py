"""Where everything lies inside a store `NAME.lens/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """Paths inside one store; nothing here touches the disk."""

    root: Path

    @property
    def marker(self) -> Path:
        """The file that makes a folder a store: its format version."""
        return self.root / "lens.json"

    @property
    def current(self) -> Path:
        """The file that names the published generation and its segments."""
        return self.root / "CURRENT"

    @property
    def current_link(self) -> Path:
        """The symlink to the published catalogue's folder: a fixed address for dashboards."""
        return self.root / "current"

    @property
    def catalogs(self) -> Path:
        """The folder of all kept generations."""
        return self.root / "catalog"

    def catalog(self, generation: int) -> Path:
        """The database of one generation; each has a path of its own (see docs/store-format.md)."""
        return self.catalogs / f"{generation:06d}" / "lens.duckdb"

    def snapshot_of(self, generation: int) -> Path:
        """What `CURRENT` said when this generation was published."""
        return self.catalogs / f"{generation:06d}" / "CURRENT"

    def arrays(self, run: str) -> Path:
        """The Zarr group of a run's arrays."""
        return self.root / "runs" / run

    def thumbnails(self, run: str, segment: int) -> Path:
        """The Arrow file of a segment's thumbnails."""
        return self.root / "thumbnails" / run / f"{segment:06d}.arrow"

    def segment_dir(self, run: str) -> Path:
        """The folder of a run's manifests and of its rows until they are finalized."""
        return self.root / "segments" / run

    def manifest(self, run: str, segment: int) -> Path:
        """The manifest whose existence commits a segment."""
        return self.segment_dir(run) / f"{segment:06d}.json"

    def static_manifest(self, run: str) -> Path:
        """The manifest of the arrays that a run writes once (weights, bases)."""
        return self.segment_dir(run) / "static.json"

    def fitted_manifest(self, run: str) -> Path:
        """The manifest of what a run's reference set said of its neurons."""
        return self.segment_dir(run) / "neurons.json"

    def fitting(self, run: str, number: int) -> Path:
        """How far the fit of one pass of neuron layers is, or what it found."""
        return self.fits(run) / f"{number}.safetensors"

    def fits(self, run: str) -> Path:
        """The folder of the fits of a run's neurons, until their result is committed."""
        return self.segment_dir(run) / "fit"

    def pass_rows(self, run: str, segment: int, number: int) -> Path:
        """A segment's neuron layers of one pass, until its last pass commits it."""
        return self.passes(run) / f"{segment:06d}-{number}.safetensors"

    def passes(self, run: str) -> Path:
        """The folder of what earlier passes over the images left for the last one."""
        return self.segment_dir(run) / "passes"

    def by_neuron(self, run: str) -> Path:
        """The folder of a run's neurons in the second orientation."""
        return self.arrays(run) / "by_neuron"

    def by_neuron_manifest(self, run: str, label: int) -> Path:
        """The manifest of the files under one label of `by_neuron`."""
        return self.segment_dir(run) / f"by_neuron-{label}.json"

    def peak_rows(self, run: str, segment: int) -> Path:
        """Parquet: image x neuron facts of a segment where the norm is above the threshold."""
        return self.segment_dir(run) / f"{segment:06d}.peaks.parquet"

    def image_rows(self, run: str, segment: int) -> Path:
        """Parquet: what became of each image of a segment."""
        return self.segment_dir(run) / f"{segment:06d}.images.parquet"

    def effect_rows(self, run: str, segment: int) -> Path:
        """Parquet: image x head facts of a segment, until finalize takes them in."""
        return self.segment_dir(run) / f"{segment:06d}.effects.parquet"

    def pool_vectors(self, pool: str, weights_sha256: str) -> Path:
        """The Zarr array of a pool's embeddings by one model."""
        return self.root / "pools" / pool / weights_sha256[:16]

    def pool_manifest(self, pool: str, weights_sha256: str) -> Path:
        """The manifest of a pool's embeddings by one model."""
        return self.root / "pools" / pool / f"{weights_sha256[:16]}.json"

    def derived(self, table: str, fingerprint: str) -> Path:
        """The Parquet file of a result that a reader computed and kept."""
        return self.root / "derived" / table / f"{fingerprint}.parquet"

    @property
    def zoos(self) -> Path:
        """The folder of all Rosetta zoos."""
        return self.root / "rosetta"

    def zoo(self, folder: str) -> Path:
        """The Zarr group of a zoo's arrays."""
        return self.zoos / folder

    def zoo_pair(self, folder: str, first: str, second: str) -> Path:
        """The Zarr group of the nearest units of two models in each other."""
        return self.zoo(folder) / "pairs" / f"{first}~{second}"

    def zoo_model(self, folder: str, member: str) -> Path:
        """The Zarr group of the statistics of a model's units."""
        return self.zoo(folder) / "models" / member

    def zoo_examples(self, folder: str, label: int) -> Path:
        """The Zarr group of example pictures and the maps of matched units."""
        return self.zoo(folder) / f"examples-{label}"

    def zoo_state(self, folder: str) -> Path:
        """The folder of a mining in the making; no part of the store."""
        return self.zoo(folder) / "state"

    def zoo_dropped(self, folder: str) -> Path:
        """The file that says that a zoo's files may go once no kept generation names them."""
        return self.zoo(folder) / "dropped"

    @property
    def publish_lock(self) -> Path:
        """Held while a generation is made and published."""
        return self.root / "locks" / "publish.lock"

    def run_lock(self, folder: str) -> Path:
        """One byte for each segment of a run, locked by whoever writes it."""
        return self.root / "locks" / f"{folder}.lock"
