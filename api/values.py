"""Numbers per image or per text, with the names of what they are about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .printing import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd
    import torch


class Values:
    """An array [n, ...] whose first axis is images (`image_ids`) or `texts`.

    `components` names the second axis where that is components of the model. `numpy.asarray`,
    `.torch()` and `.df()` take it elsewhere.
    """

    def __init__(
        self,
        values: npt.NDArray[Any],
        *,
        image_ids: npt.NDArray[np.int64] | None = None,
        texts: Sequence[str] | None = None,
        components: Sequence[str] | None = None,
    ) -> None:
        self.values: npt.NDArray[np.float32] = np.ascontiguousarray(values, np.float32)
        self.image_ids = image_ids
        self.texts = None if texts is None else list(texts)
        self.components = None if components is None else list(components)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.values.shape

    def torch(self) -> torch.Tensor:
        """The array as a float32 tensor on the CPU, sharing its memory; raises ImportError."""
        import torch

        return torch.from_numpy(self.values)

    def df(self) -> pd.DataFrame:
        """The array as a pandas frame: an index of image ids (or texts), and of components.

        The last axis makes the columns.
        """
        import pandas as pd

        names = ["text" if self.texts is not None else "image_id"]
        keys: list[Any] = [self._keys()]
        if self.values.ndim > 2:
            names.append("component")
            keys.append(self.components or range(self.values.shape[1]))
        for axis in range(2, self.values.ndim - 1):
            names.append(f"axis{axis}")
            keys.append(range(self.values.shape[axis]))
        index = (
            pd.Index(keys[0], name=names[0])
            if len(keys) == 1
            else pd.MultiIndex.from_product(keys, names=names)
        )
        named = self.components if self.values.ndim == 2 else None
        return pd.DataFrame(
            self.values.reshape(len(index), self.shape[-1]), index=index, columns=named
        )

    def _keys(self) -> Any:
        if self.texts is not None:
            return self.texts
        return range(len(self)) if self.image_ids is None else self.image_ids

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        return np.array(self.values, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        return iter(self.values)

    def __repr__(self) -> str:
        return f"Values {list(self.shape)} float32 of {self._what()}"

    def _repr_html_(self) -> str:
        from html import escape

        size = np.linalg.norm(self.values.reshape(len(self), -1), axis=1) if len(self) else []
        rows = "".join(
            f"<tr><td>{escape(str(key))}</td><td>{length:.4g}</td></tr>"
            for key, length in zip(list(self._keys())[:10], size, strict=False)
        )
        name = "text" if self.texts is not None else "image_id"
        return (
            f"<p>{escape(repr(self))}</p><table><tr><th>{name}</th><th>length</th></tr>"
            f"{rows}</table>"
        )

    def _what(self) -> str:
        things = [counted(len(self), "image" if self.texts is None else "text")]
        if self.components is not None:
            first, last = self.components[:1], self.components[-1:]
            through = "" if len(self.components) < 2 else f" .. {last[0]}"
            things.append(f"{len(self.components)} components {''.join(first)}{through}")
        return ", ".join(things)
