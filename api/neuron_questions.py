"""What a run answers about neurons, seen through the second-order lens."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..schema.stages import Progress
from .candidates import Pool
from .classifier import Classifier, Templates
from .explaining import explain
from .given_directions import Directions
from .named_pools import Pools
from .neuron import NeuronView
from .neuron_ablation import Large, NeuronAblation, neuron_ablation
from .neuron_effects import NeuronEffects, neuron_effects
from .neuron_reconstruction import NeuronReconstruction, neuron_reconstruction
from .neuron_search import find_heads, find_neurons, similar_neurons
from .neuron_sums import Bias, neuron_sum
from .open_run import OpenRun
from .result import Result
from .run_neurons import Layers
from .selection import Images
from .spurious_texts import Source, spurious_texts
from .values import Values
from .where import Where

if TYPE_CHECKING:
    from .adversarial import Adversarial, Words
    from .descriptions import Describer
    from .fooling import Fooled
    from .painting import Painter


class NeuronQuestions:
    """The part of a run's view that is about neurons."""

    _run: OpenRun

    @property
    def neurons(self) -> Result:
        """The view `neurons` of this run: each kept neuron's mean norm, first texts and so on."""
        return self._run.query("SELECT * FROM neurons WHERE run = ? ORDER BY layer, neuron")

    def neuron(self, address: str) -> NeuronView:
        """One MLP neuron, such as "L9.N391".

        Raises `BadAddress`, `UnknownComponent`, or `NeuronsNotStored` for a layer not kept.
        """
        return NeuronView(self._run, address)

    def find_neurons(
        self, text: str, k: int = 20, *, layers: Layers = None, signed: bool = False
    ) -> Result:
        """The neurons whose directions are most along a text, by `|<r_n, text>|` (section 3.5).

        `signed` takes `<r_n, text>` itself. `layers` is one, several, or None for all kept ones.
        Columns `rank`, `component`, `layer`, `neuron`, `explained_variance`, the first `texts` of
        its sparse code where the ingest kept them, and `score`, which has its sign.
        Raises `NeuronsNotStored`, `BadQuestion` or `TextNotStored`.
        """
        return find_neurons(self._run, text, k, layers=layers, signed=signed)

    def find_heads(self, text: str, k: int = 5) -> Result:
        """The heads whose TEXTSPAN texts are most like a text.

        `score` is the cosine of the text with each of a head's first five texts, the default pool's
        mean taken away from both, weighted by what these explain of the head. Columns `rank`,
        `component`, `layer`, `head`, `score`, `texts`.
        Raises `BadQuestion`, `UnknownPool` or `TextNotStored`.
        """
        return find_heads(self._run, text, k)

    def neuron_similarity(self, neuron: str, k: int = 10, *, layers: Layers = None) -> Result:
        """The neurons whose directions are most like another one's, by |cosine|.

        Columns as in `find_neurons`, with the signed `cosine`. The neuron itself is left out.
        Raises `BadAddress`, `UnknownComponent`, `NeuronsNotStored` or `BadQuestion`.
        """
        return similar_neurons(self._run, neuron, k, layers=layers)

    def explain(
        self,
        image: Any,
        layer: Layers = None,
        pool: Pool = None,
        *,
        k: int = 10,
        m: int = 16,
        center: bool = False,
        signed: bool = True,
    ) -> Result:
        """What an image that is not in the store shows: `ImageView.concepts`, with the model.

        `image` is a file or a PIL image. The run's model is loaded and the image is projected on
        the run's directions; nothing is written. Raises what `ImageView.concepts` raises,
        `ImageFileMissing`, `RejectedImage`, and what loading a model raises.
        """
        return explain(
            self._run, image, layer=layer, pool=pool, k=k, m=m, center=center, signed=signed
        )

    def neuron_sum(
        self,
        layer: int,
        images: Images = None,
        *,
        where: Where = None,
        bias: Bias | None = None,
    ) -> Values:
        """The sum [k, d'] of the second-order effects of all N neurons of a layer (T3.3).

        An effect leaves out the means and biases of the norms on its way. `bias` "shared" adds them
        split equally among neurons, as T-B.5 has it: N times one neuron's share. The MLP's output
        bias is no neuron's. Raises `NeuronsNotStored`, `BadQuestion`, `UnknownImage`, `RejectedRow`
        or `BadSelection`.
        """
        return neuron_sum(self._run, layer, images, where=where, bias=bias)

    def neuron_ablation(
        self,
        c: Classifier,
        *,
        layers: Layers = None,
        large: Large = "percentile",
        top: int = 100,
        shuffles: int = 0,
        seed: int = 0,
        label: str = "label",
        by: str | Sequence[str] | None = None,
        images: Images = None,
        where: Where = None,
    ) -> NeuronAblation:
        """Accuracy with the second-order effects of a whole layer replaced (Figures 3.3, B.2, B.3).

        A row a layer ("L9.N*", all its neurons) and condition: "w/o all neurons" puts the mean b_n
        over the reference set in the place of every effect phi_n(I), "w/o large norm" in each
        neuron's large images alone, "w/o small norm" in all others, "x r + b" puts x_n(I) r_n + b_n
        everywhere; with `shuffles`, "x r' + b, r shuffled" is the mean of so many draws in which
        the layer's neurons exchange their r_n. Before them a row "baseline". `large` is
        "percentile", norms above the neuron's 98th percentile over the reference set, exact; or
        "top", each neuron's `top` images of largest norm in the run, an estimate that takes an
        effect there for x_n r_n + b_n. `layers` are those that the run kept; the rest is as in
        `accuracy`, `by` adding the `worst_group`.
        Raises `NeuronsNotStored` or what `accuracy` raises.
        """
        return neuron_ablation(
            self._run,
            c,
            layers=layers,
            large=large,
            top=top,
            shuffles=shuffles,
            seed=seed,
            label=label,
            by=by,
            images=images,
            where=where,
        )

    def neuron_reconstruction(
        self,
        c: Classifier,
        *,
        layer: int,
        pools: Pools = None,
        ms: int | Sequence[int] = (4, 8, 16, 32, 64, 128),
        center: bool = False,
        label: str = "label",
        images: Images = None,
        where: Where = None,
    ) -> NeuronReconstruction:
        """Accuracy with every r_n of a layer rebuilt from m texts, against m and pool (Figure 3.4).

        Effects phi_n(I) are replaced by x_n(I) r'_n + b_n with r'_n = sum_j gamma_j t_j, the sparse
        code of m texts (T3.4), its atoms the texts of a pool, with `center` without the pool's
        mean. `pools` is a pool, a list of pools' names, or a dict from what curves are called to
        their pools; by default the run's default pool. An m past what a pool or the model's width
        allows is the largest that they do. Three rows without an m: "baseline", "w/o all
        neurons" (b_n alone) and "x r + b". `images`, `where` and `label` are as in `accuracy`.
        Raises `NeuronsNotStored`, `UnknownPool`, `TextNotStored`, or what `accuracy` raises.
        """
        return neuron_reconstruction(
            self._run,
            c,
            layer=layer,
            pools=pools,
            ms=ms,
            center=center,
            label=label,
            images=images,
            where=where,
        )

    def neuron_effects(
        self,
        c: Classifier,
        *,
        layer: int,
        neurons: int | Sequence[str] = 100,
        label: str = "label",
        images: Images = None,
        where: Where = None,
        seed: int = 0,
        progress: Progress = None,
    ) -> NeuronEffects:
        """Compare first-order, second-order and indirect effects of a layer's neurons (Table 3.1).

        A row an effect: `accuracy` after the effects of all the layer's neurons are replaced by
        their means over the reference set, `baseline` before, and `explained_variance`, the mean
        share of `neurons` that the first principal component of a neuron's largest effects explains
        (100 drawn by `seed`, another number, or addresses). First-order: the layer's direct sum of
        p_0 P w_n, one direction each, so 1. Second-order: from what is stored, explained over the
        reference set. Indirect: each activation held at its mean, token by token, in a real forward
        pass; explained over the images asked for. `neurons` of the result tells each neuron's own,
        and `directions` holds the first principal components of the indirect effects.
        The first and the last are measured with the run's model on its pictures, about a forward
        pass an image and neuron, and kept, 8 d' bytes an image: asking again needs neither.
        `images`, `where` and `label` are as in `accuracy`; `progress=False` shows no bar.
        Raises `NeuronsNotStored`, `BadAddress`, `UnknownComponent`, `ExtraMissing` without torch,
        `WeightsNotFound` without the model, `ImageFileMissing`, `SourceNotFound` or `UnknownImage`
        without the pictures, `BadQuestion` in a copy of some images, which lacks that set, or what
        `accuracy` raises.
        """
        return neuron_effects(
            self._run,
            c,
            layer=layer,
            neurons=neurons,
            label=label,
            images=images,
            where=where,
            seed=seed,
            progress=progress,
        )

    def spurious_texts(
        self,
        a: str,
        b: str,
        *,
        layers: Layers = None,
        pool: Pool = None,
        neurons: int = 100,
        k: int = 25,
        m: int = 16,
        center: bool = False,
        synonym: float | None = 0.9,
        templates: Templates = None,
        source: Source = "second-order",
        seed: int = 0,
        directions: Directions | None = None,
    ) -> Result:
        """Words that, added to an image of `a`, make the model take it for `b` (T3.4).

        With v = t(b) - t(a), the `neurons` of largest `|<v, r_n>|` of `layers` vote with their
        sparse codes (`pool`, `m`, `center` as in `NeuronView.texts`): `w_j = sum_n gamma_j^n
        <v, r_n>`. Texts of cosine `synonym` or more with `b` are left out, since they name it; None
        keeps them. `templates` are as in `classifier`. `source` "random" draws the neurons with
        `seed`, "similar" ranks texts by `<v, t_j>` alone: two baselines of Table 3.3. The third
        takes `directions` of indirect effects, `clip.neuron_effects(...).directions`: vectors [d']
        by address, brought to unit length, with which these neurons alone are ranked (or drawn) and
        coded, whatever their layer, so without `layers`. Columns `rank`, `text`, `score` and, but
        for "similar", `neurons`, how many of them hold the text.
        Raises `NeuronsNotStored`, `BadQuestion`, `BadClasses`, `BadTemplate`, `UnknownPool` or
        `TextNotStored`, and for `directions` also `BadAddress`, `UnknownComponent` or `UnknownRun`.
        """
        return spurious_texts(
            self._run,
            a,
            b,
            layers=layers,
            pool=pool,
            neurons=neurons,
            k=k,
            m=m,
            center=center,
            synonym=synonym,
            templates=templates,
            source=source,
            seed=seed,
            directions=directions,
        )

    def adversarial(
        self,
        a: str,
        b: str,
        *,
        words: Words,
        describer: Describer,
        painter: Painter,
        folder: str | os.PathLike[str],
        **options: Any,
    ) -> Adversarial:
        """Make images of `a` that the model is to take for `b`, and count those that it does.

        `words` are those of `spurious_texts(a, b)`, or named lists of them to compare (Table 3.3);
        `describer` puts them into image descriptions (`lensbase.api.adversarial.chat_describer`,
        or any function), `painter` paints these (a `diffusers` pipeline, or any function from a
        text to a picture). Nothing is called but what is given here. Everything else is explained
        at `lensbase.api.adversarial.adversarial`, which takes `options` too.
        """
        from .adversarial import adversarial

        return adversarial(
            self._run,
            a,
            b,
            words=words,
            describer=describer,
            painter=painter,
            folder=folder,
            **options,
        )

    def fooled(
        self, folder: str | os.PathLike[str], a: str, b: str, *, templates: Templates = None
    ) -> Fooled:
        """How many images of a folder that show `a` the run's model takes for `b` (Table 3.3).

        Loads the model. Raises `SourceNotFound`, `BadManifest`, `NoImages`, `BadQuestion`,
        `BadTemplate`, `TextNotStored` or `WeightsNotFound`.
        """
        from .fooling import score

        return score(folder, self._run, shown=a, mistaken_for=b, templates=templates)
