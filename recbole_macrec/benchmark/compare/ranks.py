"""The ranks of a run's test targets, and their files."""
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from recbole_macrec.benchmark.compare.run_files import load_arrays, save_arrays
from recbole_macrec.errors import UserError


@dataclass(frozen=True)
class TargetRanks:
    """The ranks of the targets of a run's test rows, from which its metrics and paired tests are computed.

    Shapes: T targets, R rows; see :class:`Ranks`.

    Attributes:
        users: [T] tokens.
        targets: [T] tokens, row by row.
        ranks: int [T]; 0 for a target that is not ranked.
        rows: int [T], the row of each target, from 0, ascending.
    """

    users: np.ndarray
    targets: np.ndarray
    ranks: np.ndarray
    rows: np.ndarray

    def keys(self) -> list[tuple]:
        """Keys of the rows, equal in every run with the same test rows: user, targets, and the number of equal rows before it;
        [R]."""
        starts = np.unique(self.rows, return_index=True)[1]
        return row_keys(self.users[starts], self.targets, starts)

    def first(self, k: int) -> "TargetRanks":
        """The same targets, with ranks of at most ``k``; greater ones become 0."""
        return replace(self, ranks=np.where(self.ranks <= k, self.ranks, 0))

    def save(self, path: Path) -> None:
        save_arrays(path, {name: getattr(self, name) for name in ("users", "targets", "ranks", "rows")})

    @classmethod
    def load(cls, path: Path) -> "TargetRanks":
        try:
            return cls(**load_arrays(path, "publish its run again"))
        except TypeError as error:  # a missing or unknown array
            raise UserError(f"{path} does not contain the ranks of a run ({error}); publish its run again.") from None


@dataclass(frozen=True)
class Ranks:
    """The test rows of a run.

    RecBole's metrics average over rows: a row is one test interaction for a sequential model, and one user with all test items
    for any other model. So a user may have several rows, and a row several targets.

    Shapes: R rows, T targets, K the largest topk, N items with padding (item 0).

    Attributes:
        users: [T] tokens.
        items: [N] tokens; other fields refer to items by their index in it.
        targets: [T] the test items, row by row, in item order within a row.
        ranks: [T] their ranks among all items, 1 is best. Ties are broken as in RecBole's top-k, and below the top K by item
            number.
        top: [R, K] the K best items, best first, padded with 0 if the model ranks fewer.
        counts: [N] number of training interactions of each item.
        histories: R arrays, the items before the targets, oldest first, not cut to the history length of the model.
        item_ranks, id_ranks: of generative models, ranking name ("fused" and each modality) -> [T], the place of the
            target among the items that the beams found (every item with ``decode: exact``), and of its ID among the distinct
            IDs; 0 if absent.
        rows: [T] the row of each target, from 0, ascending; by default every row has one target.
    """

    users: np.ndarray
    items: np.ndarray
    targets: np.ndarray
    ranks: np.ndarray
    top: np.ndarray
    counts: np.ndarray
    histories: list[np.ndarray]
    item_ranks: dict[str, np.ndarray] = field(default_factory=dict)
    id_ranks: dict[str, np.ndarray] = field(default_factory=dict)
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self):
        if not len(self.rows):
            object.__setattr__(self, "rows", np.arange(len(self.users)))

    def of_targets(self) -> TargetRanks:
        """Users, targets as tokens, ranks and rows."""
        return TargetRanks(self.users, self.items[self.targets], self.ranks, self.rows)

    def keys(self) -> list[tuple]:
        """Keys of the rows, see :meth:`TargetRanks.keys`."""
        return self.of_targets().keys()

    def single(self) -> "Ranks":
        """The same targets, each in its own row."""
        rows = self.rows.tolist()
        return replace(
            self, top=self.top[self.rows], histories=[self.histories[row] for row in rows], rows=np.arange(len(rows))
        )

    def save(self, path: Path) -> None:
        arrays = {name: getattr(self, name) for name in ("users", "items", "targets", "ranks", "top", "counts", "rows")}
        arrays["history"] = np.concatenate([*self.histories, np.zeros(0, np.int64)]).astype(np.int32)
        arrays["history_ends"] = np.cumsum([len(history) for history in self.histories])
        arrays |= {f"item_ranks.{name}": ranks for name, ranks in self.item_ranks.items()}
        arrays |= {f"id_ranks.{name}": ranks for name, ranks in self.id_ranks.items()}
        save_arrays(path, arrays)

    @classmethod
    def load(cls, path: Path) -> "Ranks":
        arrays = load_arrays(path)
        try:
            histories = np.split(arrays.pop("history"), arrays.pop("history_ends")[:-1])
            named: dict[str, Any] = {"item_ranks": {}, "id_ranks": {}}
            for key in [key for key in arrays if "." in key]:
                kind, name = key.split(".", 1)
                named[kind][name] = arrays.pop(key)
            return cls(histories=histories, **(named | arrays))
        except (KeyError, TypeError) as error:  # a missing or unknown array
            raise UserError(
                f"{path} does not contain the ranks of a run ({error}); delete {path.parent} and run the comparison again."
            ) from None


def row_keys(users: np.ndarray, targets: np.ndarray, starts: np.ndarray) -> list[tuple]:
    """Keys of R evaluated rows, equal in every run with the same rows: user, targets, and the number of equal rows before it.

    Args:
        users: [R] tokens.
        targets: [T] tokens, row by row.
        starts: int64 [R], the first target of each row.
    """
    repeated: dict[tuple, int] = {}
    keys = []
    for user, of_row in zip(users.tolist(), np.split(targets, starts[1:])):
        row = (str(user), tuple(sorted(of_row.tolist())))
        repeated[row] = repeated.get(row, -1) + 1
        keys.append((*row, repeated[row]))
    return keys
