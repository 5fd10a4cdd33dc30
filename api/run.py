"""One run of a store: the questions that its images, heads and layers answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..queries.segmentation import Threshold
from ..queries.textspan import Score
from ..schema.components import layer_terms
from .batches import Kind, run_batches
from .candidates import Pool
from .card import Card
from .classes import ClassQuestions
from .classifier import Classes, Classifier, Templates
from .head import HeadView
from .image import ImageView
from .masks import Masks
from .named_components import Components
from .neuron_questions import NeuronQuestions
from .open_run import OpenRun
from .printing import human_bytes, layers_named
from .ranking import nearest_representations, top_representations
from .reconstruction import Pools, Reconstruction, reconstruct
from .result import Result
from .run_neurons import Layers
from .segmentation_methods import Method
from .segmentation_scores import SegmentationScores, Target, evaluate_segmentation
from .selection import Images
from .spurious import spurious_heads
from .textspans import heads_textspan, kept_heads
from .values import Values
from .where import Where

if TYPE_CHECKING:
    from PIL.Image import Image


class RunView(ClassQuestions, NeuronQuestions):
    """A model's inner workings over a data set, as one ingest kept them."""

    def __init__(self, run: OpenRun) -> None:
        self._run = run
        self.name = run.name

    @property
    def images(self) -> Result:
        """The view `images` of this run, by id: rejected ones too, with their `reason`."""
        return self._run.query("SELECT * FROM images WHERE run = ? ORDER BY image_id")

    @property
    def heads(self) -> Result:
        """The view `heads` of this run: each kept head's mean norm, variance, first texts."""
        return self._run.query("SELECT * FROM heads WHERE run = ? ORDER BY layer, head")

    @property
    def layers(self) -> Result:
        """The view `layers` of this run: mean norm and share of the 2L+1 residual terms (T2.4)."""
        return self._run.query("SELECT * FROM layers WHERE run = ? ORDER BY term")

    def representation(self, images: Images = None, *, where: Where = None) -> Values:
        """M(I) [k, d'], unnormalised: the model's image embedding (T2.1).

        Raises `UnknownImage`, `RejectedRow` or `BadSelection`.
        """
        chosen = self._run.images.select(images, where)
        found = self._run.arrays["representation"].read(chosen.rows)
        return Values(found, image_ids=chosen.image_ids, thumbnails=self._run.thumbnails_of)

    def layer_effects(self, images: Images = None, *, where: Where = None) -> Values:
        """The residual terms [k, 2L+1, d'] that add up to M(I); `components` names them (T2.4).

        Raises `UnknownImage`, `RejectedRow` or `BadSelection`.
        """
        chosen = self._run.images.select(images, where)
        found = self._run.arrays["layer"].read(chosen.rows)
        components = layer_terms(self._run.shape.layers)
        return Values(
            found,
            image_ids=chosen.image_ids,
            thumbnails=self._run.thumbnails_of,
            components=components,
        )

    def encode_text(self, texts: str | Sequence[str]) -> Values:
        """Unit-length embeddings [n, d'] of texts in the run's joint space.

        Texts of any pool that the model has embedded are looked up; new ones load the text
        tower. Raises `TextNotStored` where that cannot be done.
        """
        listed = [texts] if isinstance(texts, str) else list(texts)
        return Values(self._run.texts.encode(listed), texts=listed)

    def spurious_heads(
        self,
        c: Classifier,
        by: str | Sequence[str],
        k: int = 10,
        *,
        label: str = "label",
        images: Images = None,
        where: Where = None,
    ) -> Result:
        """Heads that carry a group's effect on the class logits: candidates to ablate (Table 2.3).

        `by` is the column of `images` (or several) that makes groups, `label` the one with the
        classes. Columns `rank`, `component`, `layer`, `head`; `effect`, the head's share of what
        the group does to the logits of images of one label (over all components of the model these
        add up to 1), and `cumulative`; `group_variance` and `label_variance` of the head's own
        logits, between groups of one label and labels of one group; `score` = effect *
        group_variance / (both), by which they are ranked; the head's first `text`. Heads that add
        nothing to the effect, or tell labels apart more than groups, are not proposed: then fewer
        than `k` rows, with a note. See docs/mathematics.md, "Spurious cues". Raises what
        `accuracy` raises, `HeadNotStored`, and `BadSelection` where no label occurs in two groups.
        """
        return spurious_heads(self._run, c, by=by, k=k, label=label, images=images, where=where)

    def batches(
        self, kind: Kind = "head", *, heads: Components = None, size: int = 8192
    ) -> Iterator[Values]:
        """Go through all images by id, `size` at a time, in memory bounded by `size`.

        `kind` is "head" (contributions [n, heads, d'] of `heads`, by default of all kept ones),
        "representation" [n, d'], "layer" [n, 2L+1, d'], "token" [n, T, d'], or "neuron_norm"
        ||phi|| and "neuron_coefficient" x [n, neurons of all kept layers] (T3.3), 4 bytes each.
        Raises `BadQuestion`, `HeadNotStored`, `TokensNotStored` or `NeuronsNotStored` before the
        first batch.
        """
        return run_batches(self._run, kind, heads=heads, size=size)

    def head(self, address: str) -> HeadView:
        """One attention head, such as "L22.H8".

        Raises `BadAddress`, `UnknownComponent`, or `HeadNotStored` for a layer not kept.
        """
        return HeadView(self._run, address)

    def textspan(
        self,
        heads: Components = None,
        pool: Pool = None,
        m: int = 20,
        *,
        images: Images = None,
        where: Where = None,
        normalize: bool = False,
        score: Score = "variance",
    ) -> Result:
        """The texts that explain each of many heads, by TEXTSPAN (Algorithm 1, T2.7).

        Columns `component`, `layer`, `head`, `rank`, `text`, `explained_variance`, `cumulative`.
        `heads` are addresses, a role, or rows with a column `component`, by default all kept heads;
        everything else as for `HeadView.textspan`. Features of chosen images are summed for all
        heads in one pass.
        Raises `BadQuestion`, `BadSelection`, `UnknownPool`, `UnknownImage`, `TextNotStored`,
        `UnknownComponent`, `UnknownRole` or `HeadNotStored`.
        """
        whole = images is None and where is None
        return heads_textspan(
            self._run,
            kept_heads(self._run, heads),
            pool=pool,
            m=m,
            selection=None if whole else self._run.images.select(images, where),
            normalize=normalize,
            score=score,
        )

    def reconstruction(
        self,
        classifier: Classifier,
        *,
        pools: Pools = None,
        ms: int | Sequence[int] = (10, 20, 30, 40, 50, 60),
        layers: Sequence[int] | None = None,
        label: str = "label",
        images: Images = None,
        where: Where = None,
    ) -> Reconstruction:
        """Zero-shot accuracy when late heads keep only their first m texts (Figures 2.3, A.1).

        Columns `pool`, `m`, `accuracy`; `.plot()` draws the figure. Every head of `layers`
        (default: the last four kept) is projected on the span of its first m TEXTSPAN texts
        around its mean, and everything else, MLPs too, is mean-ablated. Two rows without an m
        say what is left without projection ("late heads") and with nothing ablated ("full
        model"). `pools` is a pool as for `textspan`, a list of names, or a dict from names to
        pools. Texts and means are those of the whole run; `images` and `where` choose whom
        accuracy is taken over. Raises `BadQuestion`, `BadSelection`, `UnknownPool`,
        `HeadNotStored`, `ClassifierMismatch`, `UnknownColumn` or `UnknownLabel`.
        """
        chosen = self._run.images.select(images, where)
        return reconstruct(
            self._run, classifier, pools=pools, ms=ms, layers=layers, label=label, chosen=chosen
        )

    def top_images(
        self,
        text: str,
        k: int = 10,
        *,
        images: Images = None,
        where: Where = None,
        normalize: bool = False,
    ) -> Result:
        """The images with the largest `<M(I), text>`: by the whole representation, to compare.

        Columns as in `HeadView.top_images`; `normalize` divides by ||M(I)||, which makes the
        score the cosine. Raises `BadQuestion`, `TextNotStored`, `UnknownImage` or `BadSelection`.
        """
        chosen = self._run.images.select(images, where)
        return top_representations(self._run, chosen, text, k=k, normalize=normalize)

    def nearest_images(
        self,
        to: Images,
        k: int = 10,
        *,
        images: Images = None,
        where: Where = None,
        normalize: bool = False,
    ) -> Result:
        """The images with the largest `<M(I), M(to)>`: by the whole representation, to compare.

        Columns as in `HeadView.nearest_images`; `to` is an image's id or key and takes part
        itself. `normalize` divides by both lengths, which makes the score the cosine. Raises
        `BadQuestion`, `UnknownImage`, `RejectedRow` or `BadSelection`.
        """
        chosen = self._run.images.select(images, where)
        return nearest_representations(self._run, chosen, to, k=k, normalize=normalize)

    def image(self, image: Images) -> ImageView:
        """One image by id, key or path; raises `UnknownImage` or `RejectedRow`."""
        return ImageView(self._run, image)

    def evaluate_segmentation(
        self,
        masks: Masks,
        *,
        classes: Classes | Classifier | None = None,
        label: str = "label",
        target: Target = "label",
        method: Method = "tokens",
        layers: Layers = None,
        neurons: int | None = None,
        signed: bool = False,
        threshold: Threshold | None = None,
        templates: Templates = None,
        ignore: int | None = None,
        images: Images = None,
        where: Where = None,
    ) -> SegmentationScores:
        """Pixel accuracy, mIoU and mAP of zero-shot segmentation (Tables 2.4 and 3.4).

        `masks` is a folder of PNG files named like the images (also `NAME_mask.png`), an array
        [images, H, W] in the images' order, or a mapping or function from keys to arrays; what is
        not 0 is foreground, `ignore` a value that counts as neither. Masks have their image's size,
        upright, or the crop's, and take the same resizing and cropping as the image.
        Each image is segmented by the class that its column `label` names (those without one are
        passed over), or by the one that the model predicts. `classes` are their names or a
        classifier, by default all labels there are;
        `templates` as in `classifier`. With tokens the mean map over all classes is taken away;
        `method`, `layers`, `neurons`, `signed` and `threshold` are as in `ImageView.segment`.
        Raises `TokensNotStored`, `NeuronsNotStored`, `NeuronInputNotStored`, `MaskMissing`,
        `BadMask`, `UnknownLabel`, `UnknownColumn`, `ClassifierMismatch`, `BadClasses`,
        `TextNotStored`, `BadQuestion` or `BadSelection`.
        """
        return evaluate_segmentation(
            self._run,
            masks,
            classes=classes,
            label=label,
            target=target,
            method=method,
            layers=layers,
            neurons=neurons,
            signed=signed,
            threshold=threshold,
            templates=templates,
            ignore=ignore,
            images=images,
            where=where,
        )

    def thumbnail(self, image: Images) -> Image:
        """The crop of an image that the model saw, 224 pixels at most.

        Raises `UnknownImage`, `RejectedRow`, or `ImageFileMissing` where none is kept.
        """
        return self.image(image).thumbnail()

    def info(self) -> Card:
        """A card: model, images, what is kept, and how well the terms add up."""
        (facts,) = self._run.query("SELECT * FROM runs WHERE run = ?")
        row, shape = self._run.row, self._run.shape
        committed, rejected = facts["committed"] or 0, facts["rejected"] or 0
        images = (
            f"{committed:,} of {facts['images']:,}"
            if row["status"] != "complete"
            else (f"{committed:,}")
        )
        pretrained = f" {facts['pretrained']}" if facts["pretrained"] else ""
        kept = [f"heads of {layers_named(shape.head_layers)}"]
        kept += ["tokens"] if shape.tokens else []
        if shape.head_token_layers:
            kept.append(f"head-tokens of {layers_named(shape.head_token_layers)}")
        neurons = "none kept"
        if shape.neuron_layers:
            read = ", with what they read" if shape.neuron_input else ""
            neurons = f"those of {layers_named(shape.neuron_layers)}{read}"
        residual = facts["max_residual"]
        return Card(
            f"run {self.name}",
            {
                "model": f"{facts['model']}{pretrained} ({row['weights_sha256'][:12]}), "
                f"{facts['activation']}",
                "shape": f"{shape.layers} layers x {shape.heads} heads x {shape.head_width}, "
                f"{shape.patches} patches, joint width {shape.embed_dim}",
                "data set": facts["dataset"],
                "images": f"{images}, {rejected:,} of them rejected",
                "kept": ", ".join(kept),
                "neurons": neurons,
                "default pool": facts["default_pool"] or "none",
                "size": human_bytes(facts["bytes"] or 0),
                "terms add up to": "nothing yet" if residual is None else f"{residual:.1e} of |M|",
                "ingested": f"{row['precision']} on {row['device']}, batches of "
                f"{row['batch_size']}, {row['status']}",
            },
        )

    def __repr__(self) -> str:
        return str(self.info())

    def _repr_html_(self) -> str:
        return self.info()._repr_html_()  # pyright: ignore[reportPrivateUsage]
