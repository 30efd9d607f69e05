"""Prepared weights: what a plan makes of a weight once, to be given in its place."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convforge.runtime.device_executor import DevicePacked


@dataclass(frozen=True, eq=False)
class PreparedWeight:
    """An immutable snapshot of a weight, packed for the passes of one plan; pass it in place of ``weight``.

    Later changes of the array it was made from do not show. One that is not on a GPU can be pickled.
    """

    key: tuple[Hashable, ...]
    weight: np.ndarray | None = field(repr=False)
    packed: dict[str, Any] = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes it holds."""
        kept = 0 if self.weight is None else self.weight.nbytes
        return int(kept + sum(each.nbytes for each in self.packed.values()))

    def __reduce__(self) -> Any:
        if any(isinstance(each, DevicePacked) for each in self.packed.values()):
            raise TypeError(
                "a weight that was prepared on a GPU cannot be pickled: prepare it again where it is needed"
            )
        return PreparedWeight, (self.key, self.weight, self.packed)
