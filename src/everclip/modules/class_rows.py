"""A table with one row per class, growing as classes arrive."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from everclip.types import ClassSet


class ClassRows(nn.Module):
    """Rows (C, D) by global class id; trainable or not. `rows` and `ids` are part of the state and may have any length.

    Args:
        width: D.
        trainable: whether `rows` is a parameter.
    """

    rows: Tensor
    ids: Tensor

    def __init__(self, width: int, *, trainable: bool) -> None:
        super().__init__()
        self.register_buffer("ids", torch.empty(0, dtype=torch.long))
        rows = torch.empty(0, width)
        if trainable:
            self.rows = nn.Parameter(rows)
        else:
            self.register_buffer("rows", rows)

    def append(self, classes: ClassSet, rows: Tensor) -> None:
        """Adds one row (len(classes), D) per class, none of which may be known already."""
        device = self.rows.device
        ids = torch.tensor(classes.ids, device=device)
        self._hold(torch.cat([self.ids, ids]), torch.cat([self.rows.detach(), rows.detach().to(device)]))

    def update(self, classes: ClassSet, rows: Tensor) -> None:
        """Holds one row (len(classes), D) per class, beside those of all others that it held before."""
        others = [row for row, class_id in enumerate(self.ids.tolist()) if class_id not in classes.ids]
        self._hold(self.ids[others], self.rows.detach()[others])
        self.append(classes, rows)

    def replace(self, classes: ClassSet, rows: Tensor) -> None:
        """Holds one row (len(classes), D) per class, and nothing of what it held before."""
        device = self.rows.device
        self._hold(torch.tensor(classes.ids, device=device), rows.detach().to(device))

    def _hold(self, ids: Tensor, rows: Tensor) -> None:
        self.rows = nn.Parameter(rows) if isinstance(self.rows, nn.Parameter) else rows
        self.ids = ids

    def grown_bytes(self, sizes: Sequence[int], num_images: int) -> int:
        """See `everclip.methods.base.Growing`."""
        return sum(sizes) * (self.ids.itemsize + self.rows.shape[1] * self.rows.itemsize)

    def keeping_others(self, classes: ClassSet) -> Callable[[], None]:
        """What puts the rows of all other classes back as they are now: weight decay moves what has no gradient."""
        others = [row for row, class_id in enumerate(self.ids.tolist()) if class_id not in classes.ids]
        kept = self.rows.detach()[others]

        @torch.no_grad()
        def put_back() -> None:
            self.rows[others] = kept

        return put_back

    def of(self, classes: ClassSet) -> Tensor:
        """The rows (len(classes), D) in the order of `classes`.

        Raises:
            ValueError: a class has no row.
        """
        position = {class_id: row for row, class_id in enumerate(self.ids.tolist())}
        missing = [name for class_id, name in zip(classes.ids, classes.names, strict=True) if class_id not in position]
        if missing:
            raise ValueError(f"no row for the classes {', '.join(missing[:5])}: they were never trained")
        return self.rows[[position[class_id] for class_id in classes.ids]]
