"""What a run answers about classes: zero-shot accuracy, and what is left of it after ablations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .ablation import prepare
from .ablation_curve import AblationCurve, LayerKind, ablation_curve, ablation_table
from .accuracy import Accuracy, accuracy
from .classifier import Classes, Classifier, Templates, classifier
from .named_components import Components
from .open_run import OpenRun
from .result import Result
from .selection import Images
from .values import Values
from .where import Where


class ClassQuestions:
    """The part of a run's view that is about classes and ablations."""

    _run: OpenRun

    def classifier(self, classes: Classes, templates: Templates = None) -> Classifier:
        """A zero-shot classifier: one direction a class, the mean of its prompts (section 2.2).

        `classes` are names, or a mapping from the images' labels to the names that prompts use.
        `templates` is None for the thesis' "An image of a {}", "openai" or "simple" for open_clip's
        80 or 7, a text with `{}`, a function of the name, or a list of these. Kept once made, so
        that the text tower is needed once.
        Raises `BadClasses`, `BadTemplate`, `ExtraMissing` or `TextNotStored`.
        """
        return classifier(self._run, classes, templates=templates)

    def ablate(
        self,
        components: Components,
        images: Images = None,
        *,
        where: Where = None,
        mean_over: Images = None,
        zero: bool = False,
    ) -> Values:
        """Representations [k, d'] with the direct effects of components replaced by their means.

        `components` are heads ("L21.H11"), layers ("L20.MLP"), kinds ("attn", "mlp", "embed"),
        layers of a kind ("attn[:20]"), "cls-token" (what the class token attends from itself),
        roles, or a list of these: a set, in which nothing counts twice. Means are over the run's
        images or those of `mean_over`; `zero` takes the effects out for good. Linear in what is
        stored (T2.4-T2.6; docs/mathematics.md, "Ablation").
        Raises `BadAddress`, `UnknownComponent`, `BadAblation`, `HeadNotStored`,
        `HeadTokensNotStored` (cls-token with heads or layers), `BadSelection` or `BadQuestion`.
        """
        chosen = self._run.images.select(images, where)
        means = None if mean_over is None else self._run.images.select(mean_over)
        ablation = prepare(self._run, components, mean_over=means, zero=zero)
        return Values(
            ablation.representations(chosen.rows),
            image_ids=chosen.image_ids,
            thumbnails=self._run.thumbnails_of,
        )

    def accuracy(
        self,
        c: Classifier,
        *,
        label: str = "label",
        by: str | Sequence[str] | None = None,
        ablate: Components = (),
        images: Images = None,
        where: Where = None,
        mean_over: Images = None,
        zero: bool = False,
        draws: int = 5,
        seed: int = 0,
    ) -> Accuracy:
        """Zero-shot accuracy, overall, of each group and of the worst; `ablate="mlp"`: Table 2.1.

        `label` is the column of `images` that holds the classes, compared as text; `by` the
        columns that make groups. `ablate`, `mean_over` and `zero` are as in `ablate`, and the
        accuracy before it is given beside. Where only heads are ablated, the best of `draws`
        random draws of as many other kept heads is given too.
        Raises `ClassifierMismatch`, `UnknownColumn`, `UnknownLabel`, `BadSelection`,
        `BadQuestion`, or what `ablate` raises.
        """
        return accuracy(
            self._run,
            c,
            label=label,
            by=by,
            ablate=ablate,
            images=images,
            where=where,
            mean_over=mean_over,
            zero=zero,
            draws=draws,
            seed=seed,
        )

    def ablation_curve(
        self,
        c: Classifier,
        *,
        kind: LayerKind = "attn",
        label: str = "label",
        images: Images = None,
        where: Where = None,
        mean_over: Images = None,
        zero: bool = False,
    ) -> AblationCurve:
        """Accuracy after ablating all layers of a kind up to each one, accumulated (Figure 2.2).

        Columns `layers` (how many, from 0), `component` (the last of them) and `accuracy`.
        Raises what `accuracy` raises.
        """
        return ablation_curve(
            self._run,
            c,
            kind=kind,
            label=label,
            images=images,
            where=where,
            mean_over=mean_over,
            zero=zero,
        )

    def ablation_table(
        self,
        c: Classifier,
        sets: Mapping[str, Components] | Sequence[Components] | None = None,
        *,
        label: str = "label",
        by: str | Sequence[str] | None = None,
        images: Images = None,
        where: Where = None,
        mean_over: Images = None,
        zero: bool = False,
    ) -> Result:
        """Accuracy after each of some ablations; by default those of Tables 2.1 and A.1.

        `sets` maps names to components as in `ablate`, or lists these. Columns `ablation` (the
        name), `components` as they were named, `accuracy`, and with `by` the accuracy of the
        `worst_group`. Raises what `accuracy` raises.
        """
        return ablation_table(
            self._run,
            c,
            sets=sets,
            label=label,
            by=by,
            images=images,
            where=where,
            mean_over=mean_over,
            zero=zero,
        )
