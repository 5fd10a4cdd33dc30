"""What a run answers about neurons, seen through the second-order lens."""

from __future__ import annotations

from typing import Any

from .candidates import Pool
from .classifier import Templates
from .explaining import explain
from .neuron import NeuronView
from .neuron_search import find_heads, find_neurons, similar_neurons
from .open_run import OpenRun
from .result import Result
from .run_neurons import Layers
from .spurious_texts import Source, spurious_texts


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
        k: int = 10,
        *,
        m: int = 16,
        center: bool = False,
        signed: bool = True,
    ) -> Result:
        """What an image that is not in the store shows: `ImageView.concepts`, with the model.

        `image` is a file or a PIL image. The run's model is loaded and the image is projected on
        the run's directions; nothing is written. Raises what `ImageView.concepts` raises,
        `ImageFileMissing`, `RejectedImage`, or `ModelNotAtHand` where the model cannot be loaded.
        """
        return explain(
            self._run, image, layer=layer, pool=pool, k=k, m=m, center=center, signed=signed
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
    ) -> Result:
        """Words that, added to an image of `a`, make the model take it for `b` (T3.4).

        With v = t(b) - t(a), the `neurons` of largest `|<v, r_n>|` of `layers` vote with their
        sparse codes (`pool`, `m`, `center` as in `NeuronView.texts`): `w_j = sum_n gamma_j^n
        <v, r_n>`. Texts of cosine `synonym` or more with `b` are left out, since they name it; None
        keeps them. `templates` are as in `classifier`. `source` "random" draws the neurons with
        `seed`, "similar" ranks texts by `<v, t_j>` alone: the baselines of Table 3.3. Columns
        `rank`, `text`, `score` and `neurons`, how many of them hold the text.
        Raises `NeuronsNotStored`, `BadQuestion`, `BadClasses`, `BadTemplate`, `UnknownPool` or
        `TextNotStored`.
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
        )
