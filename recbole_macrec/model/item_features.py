"""RecBole datasets that serve item features and training interactions.

Shapes: U users, N items including the padding, F_m width of the features of modality m.
"""
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.utils import ModelType
from scipy.sparse import csc_matrix

from recbole_macrec.data.encoders.content import ItemContent
from recbole_macrec.data.encoders.encode import Encoding, load_or_encode
from recbole_macrec.data.features import FeatureTable
from recbole_macrec.data.interactions import interactions_of
from recbole_macrec.data.packaged import item_folder
from recbole_macrec.errors import UserError
from recbole_macrec.model.preparation import reads_features
from recbole_macrec.semantic_ids.dataset_settings import filled_with_mean, modalities_of
from recbole_macrec.semantic_ids.order import user_order
from recbole_macrec.utils.distributed import current_group

if TYPE_CHECKING:  # the class after it in the method resolution order
    from recbole.data.dataset import Dataset as _RecBoleDataset
else:
    _RecBoleDataset = object


class ItemFeatures(_RecBoleDataset):
    """Mixin for RecBole datasets: the features of the items, and the interactions of the training part.

    ``build`` of the dataset sets ``_training_matrix``.
    """

    _training_matrix: csc_matrix | None = None

    def training_interactions(self) -> csc_matrix:
        """Number of interactions of each user and item in the training part, [U, N]; call :meth:`build` first.

        With benchmark files every pair of user and item counts once; see :func:`interactions_of`.
        """
        return self._training_matrix

    def _interaction_matrix(self) -> csc_matrix:
        """Number of interactions of each user and item in this part, [U, N]."""
        pairs = interactions_of(self)
        return csc_matrix((np.ones(len(pairs[0])), pairs), shape=(self.user_num, self.item_num))

    def training_users(self) -> dict[str, np.ndarray]:
        """Item token -> users of the item in the training part: ascending numbers of users sorted by token."""
        matrix = self.training_interactions()[user_order(self._user_tokens)]
        matrix.sort_indices()
        return dict(zip(self.field2id_token[self.iid_field][1:], np.split(matrix.indices, matrix.indptr[1:-1])[1:]))

    @property
    def _user_tokens(self) -> list[str]:
        """User tokens by internal number; the first is the padding."""
        return self.field2id_token[self.uid_field].tolist()

    def _folder(self) -> Path:
        """Folder of features and IDs, see :func:`item_folder`."""
        return item_folder(Path(self.dataset_path), self.dataset_name)

    def feature_tables(self, modalities: Sequence[str]) -> dict[str, FeatureTable]:
        """Modality -> features; those that are missing are encoded, as the option ``encoders`` says.

        Raises:
            UserError: if features are missing and cannot be encoded.
        """
        config = self.config
        users = self.training_users if self._training_matrix is not None else None
        content = ItemContent.from_config(config, self._folder(), self.dataset_name, users)
        encoding = Encoding(filled_with_mean(config), config["device"], bool(config["show_progress"]))
        return load_or_encode(content, modalities, config["encoders"] or {}, encoding)


class ServesFeatures(ItemFeatures):
    """Mixin for datasets whose models read the item features themselves.

    Attributes:
        item_features: modality -> float32 [N, F_m]; row i belongs to the internal item i, row 0 (padding) is zero. Empty for
            models that do not read features.
    """

    _item_features: dict[str, np.ndarray] | None = None

    @property
    def item_features(self) -> dict[str, np.ndarray]:
        if self._item_features is None:
            reads = reads_features(self.config)
            self._item_features = current_group().by_first(self._joined_features, "prepares the item features") if reads else {}
        return self._item_features

    def build(self) -> list:
        """Split the dataset. All parts share the item features and the interactions of the training part."""
        parts = super().build()
        self._training_matrix = parts[0]._interaction_matrix()
        for part in parts:
            part._training_matrix, part._item_features = self._training_matrix, self.item_features
        return parts

    def __getstate__(self) -> dict:
        """Save the dataset without its features, so that a stale copy is never loaded."""
        return {**self.__dict__, "_item_features": None}

    def _joined_features(self) -> dict[str, np.ndarray]:
        """Features joined by item token.

        Raises:
            UserError: if an item has no features.
        """
        modalities = modalities_of(self.config, self._folder(), with_ids=False)
        tokens = self.field2id_token[self.iid_field][1:].tolist()
        joined = {}
        for modality, table in self.feature_tables(modalities).items():
            features = table.select(tokens)
            joined[modality] = np.vstack([np.zeros_like(features[:1]), features])
        return joined


class FeatureDataset(ServesFeatures, Dataset):
    """RecBole's dataset for general models, with item features."""


class SequentialInteractions(ItemFeatures):
    """Mixin for RecBole's datasets for sequential models: checks that benchmark files exist."""

    @property
    def _sequential(self) -> bool:
        return self.config["MODEL_TYPE"] == ModelType.SEQUENTIAL

    def _load_inter_feat(self, token: str, dataset_path: str) -> None:
        """Check that benchmark files exist, then load as RecBole does."""
        for part in self.benchmark_filename_list or []:
            path = Path(dataset_path) / f"{token}.{part}.inter"
            if not path.is_file():
                raise UserError(f"{path} does not exist; add this file, or correct benchmark_filename.")
        super()._load_inter_feat(token, dataset_path)

    def _benchmark_presets(self) -> None:
        if self._sequential:  # other models read no histories
            super()._benchmark_presets()


class SequentialFeatureDataset(SequentialInteractions, ServesFeatures, SequentialDataset):
    """RecBole's dataset for sequential models, with item features."""
