"""One neuron of a run: its images, its texts, its direction, and where in an image it is active."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..queries.heatmaps import patch_grid
from ..queries.neuron_maps import neuron_maps
from ..queries.retrieval import Ranking, top_k
from .backdrops import crop_of
from .candidates import Pool
from .heatmap import Heatmap
from .neuron_codes import CodeQuestion
from .neuron_sums import Bias, constant_share, is_shared
from .open_run import OpenRun
from .result import Result
from .selection import Images
from .values import Values
from .where import Where
from .whole_numbers import whole


class NeuronView:
    """An MLP neuron of a layer whose neurons the run kept, seen through the second-order lens."""

    def __init__(self, run: OpenRun, address: str) -> None:
        self._run = run
        self._neuron = run.neurons.find(address)

    @property
    def address(self) -> str:
        """Its address, such as "L9.N391"."""
        return str(self._neuron.address)

    @property
    def direction(self) -> npt.NDArray[np.float32]:
        """r_n [d'], of unit length: what its effects have in common (T3.3).

        The first principal component of its 100 largest effects over the run's reference set.
        """
        return self._run.neurons.direction[self._place]

    @property
    def mean_effect(self) -> npt.NDArray[np.float32]:
        """b_n [d'], its mean effect over the reference set."""
        return self._run.neurons.mean[self._place]

    @property
    def explained_variance(self) -> float:
        """The share of its 100 largest effects' mean square that `direction` explains."""
        return float(self._run.neurons.explained[self._place])

    @property
    def threshold(self) -> float:
        """The 98th percentile of ||phi|| over the reference set: above it, the neuron is active."""
        return float(self._run.neurons.threshold[self._place])

    def top_images(self, k: int = 50, *, images: Images = None, where: Where = None) -> Result:
        """The images of largest ||phi_n(I)||, the length of its second-order effect (Figure 3.5).

        Columns `rank`, `image_id`, `key`, `label`, `norm` and the signed `coefficient`: where it is
        negative, the neuron writes against its direction. Raises `BadQuestion`, `UnknownImage`,
        `RejectedRow` or `BadSelection`.
        """
        k = whole(k, "k", least=0, of="images")
        neurons = self._run.neurons
        best = neurons.largest(self._neuron, k) if images is None and where is None else None
        if best is not None:
            found = Ranking(*best)
        else:
            rows = np.unique(self._run.images.select(images, where).rows)
            norms = neurons.column("norm", self._neuron, rows).astype(np.float32)
            found = top_k(norms, k, rows=rows)
        image_ids = self._run.images.ids(found.rows)
        columns = {
            "rank": np.arange(1, len(image_ids) + 1),
            **self._run.images.described(image_ids),
            "norm": found.scores,
            "coefficient": neurons.column("coefficient", self._neuron, found.rows).astype(
                np.float32
            ),
        }
        note = f"by the length of the second-order effect of {self.address}"
        return Result.of(columns, note=note, thumbnails=self._run.thumbnails_of)

    def texts(self, pool: Pool = None, m: int = 16, *, center: bool = False) -> Result:
        """Its direction as a sparse sum of texts, `r_n ~ sum_j gamma_j t_j` (T3.4, Table 3.2).

        Orthogonal matching pursuit; columns `rank` (the order of picking), `text` and the signed
        `coefficient`. `pool` is a pool's name, a list of texts or vectors, by default the run's
        default pool; `center` takes the pool's mean away from its texts first. Fewer than `m`
        where no further text adds anything: never more than the joint width or the pool's size.
        Raises `BadQuestion`, `UnknownPool` or `TextNotStored`.
        """
        question = CodeQuestion.of(self._run, pool, m=m, center=center)
        picks, coefficients = question.code(self._neuron)
        atoms = question.atoms[picks].astype(np.float64)
        made = coefficients @ atoms
        length = float(np.linalg.norm(made))
        cosine = float(made @ self.direction) / length if length > 0 else 0.0
        columns = {
            "rank": np.arange(1, len(picks) + 1),
            "text": question.candidates.texts_at(picks.tolist()),
            "coefficient": coefficients,
        }
        note = f"{question.note}; their sum has cosine {cosine:.2f} with {self.address}'s direction"
        return Result.of(columns, note=note)

    def activity(self, images: Images = None, *, where: Where = None) -> Values:
        """What it does in images [k, 2]: `norm` ||phi|| and signed `coefficient` x (T3.3).

        The coefficient is `<phi - b, r>`, so that phi is about x r + b. Raises `UnknownImage`,
        `RejectedRow` or `BadSelection`.
        """
        chosen = self._run.images.select(images, where)
        columns = [
            self._run.neurons.column(quantity, self._neuron, chosen.rows).astype(np.float32)
            for quantity in ("norm", "coefficient")
        ]
        return Values(
            np.stack(columns, axis=1),
            image_ids=chosen.image_ids,
            thumbnails=self._run.thumbnails_of,
            components=["norm", "coefficient"],
        )

    def reconstruction(
        self, images: Images = None, *, where: Where = None, bias: Bias | None = None
    ) -> Values:
        """Its effects as one direction has them, `x_n(I) r_n + b_n` [k, d'] (T3.3).

        `bias` "shared" adds the neuron's equal share of the norms' constants, as in
        `RunView.neuron_sum`. Raises `BadQuestion`, `UnknownImage`, `RejectedRow` or `BadSelection`.
        """
        shared = is_shared(bias)
        chosen = self._run.images.select(images, where)
        x = self._run.neurons.column("coefficient", self._neuron, chosen.rows)
        effects = x.astype(np.float32)[:, None] * self.direction + self.mean_effect
        if shared:
            effects += constant_share(self._run, self._neuron.place, chosen.rows)
        return Values(effects, image_ids=chosen.image_ids, thumbnails=self._run.thumbnails_of)

    def activation_map(self, image: Any) -> Heatmap:
        """Its activation at each patch of an image, from what its MLP read there.

        `image` is an id or key. Raises `NeuronInputNotStored`, `UnknownImage` or `RejectedRow`.
        """
        inputs = self._run.neurons.need_input()
        row, _ = self._run.images.one(image)
        place, number = self._place
        weights = self._run.neurons.input_weights(place, [number])
        (map_,) = neuron_maps(inputs.read(row, place)[0], weights)
        grid = patch_grid(map_, (self._run.row["grid_height"], self._run.row["grid_width"]))
        return Heatmap(
            np.ascontiguousarray(grid, np.float32),
            text=f"the activation of {self.address}",
            head=None,
            relative_to=None,
            background=lambda: crop_of(self._run, row),
        )

    @property
    def _place(self) -> tuple[int, int]:
        return self._neuron.place, self._neuron.address.neuron

    def __repr__(self) -> str:
        return f"neuron {self.address} of run {self._run.name!r}"
