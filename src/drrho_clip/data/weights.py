"""The weights that a run gave its samples, read from its weights.parquet."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from drrho_clip.errors import DataError
from drrho_clip.storage import Store, layout

if TYPE_CHECKING:
    import numpy as np

BINS = 20  # of the histogram


@dataclass(frozen=True)
class Weights:
    """Per-sample weights of a run, [n]: the share of its gradient that a sample keeps, mean of its image and text side.

    1 is all of it, as FastCLIP gives every sample; near 0 its moving average u has fallen under eps.
    """

    index: np.ndarray
    weight: np.ndarray

    def ends(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the `count` largest (largest first) and smallest (smallest first) weights; no sample is in both."""
        order = self.weight.argsort(kind="stable")
        return order[::-1][: min(count, (len(order) + 1) // 2)], order[: min(count, len(order) // 2)]

    @property
    def alike(self) -> bool:
        """Whether the weights tell nothing apart: there are none, or all are equal."""
        return not len(self.weight) or bool(self.weight.max() == self.weight.min())

    @property
    def top(self) -> float:
        """Upper end of the histogram: the largest weight, at least 1."""
        return max(1.0, float(self.weight.max(initial=0.0)))

    def histogram(self) -> list[int]:
        """Samples per bin, BINS equal bins from 0 to `top`."""
        import numpy as np

        counts, _ = np.histogram(self.weight.clip(0, None), bins=BINS, range=(0, self.top))
        return [int(count) for count in counts]


def load_weights(store: Store, run: str) -> Weights | None:
    """Read the weights of a run, None where it has none; samples without a weight are left out. 30 bytes of memory a sample."""
    key = layout.run_weights(run)
    if store.head(key) is None:
        return None
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory(prefix="drrho-weights-") as folder:
        path = Path(folder) / "weights.parquet"
        store.download(key, path)
        try:
            table = pq.read_table(path, columns=["index", "image_weight", "text_weight"])
            index = table.column("index").to_numpy().astype(np.int64)
            image, text = (table.column(name).to_numpy().astype(np.float32) for name in ("image_weight", "text_weight"))
        except (pa.ArrowException, ValueError, OSError) as error:
            raise DataError(
                f"The weights cannot be read: {error}", where=store.uri_of(key), fix="Delete them and train the run again."
            ) from None
    weight = (image + text) / 2
    known = np.isfinite(weight)
    return Weights(index[known], weight[known])
