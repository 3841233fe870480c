"""RecBole dataset whose items have semantic IDs."""
from dataclasses import replace
from functools import partial, reduce

import numpy as np
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.utils import set_color
from scipy.sparse import csr_matrix

from recbole_macrec.config.options import TRAINED_ON
from recbole_macrec.data.features import FeatureTable
from recbole_macrec.data.id_files import modality_of
from recbole_macrec.errors import UserError
from recbole_macrec.model.collaborative import collaborative_vectors
from recbole_macrec.model.item_features import SequentialInteractions
from recbole_macrec.model.preparation import reads_semantic_ids
from recbole_macrec.semantic_ids import (
    Execution,
    FeatureRows,
    SemanticIDs,
    SemanticIDSettings,
    build_semantic_ids,
    published_semantic_ids,
    represent_and_learn,
)
from recbole_macrec.semantic_ids.bundle import item_counts
from recbole_macrec.semantic_ids.dataset_settings import (
    IDS_FOLDER,
    published_and_learnt,
    read_id_names,
    settings_of,
    unread_published,
)
from recbole_macrec.semantic_ids.quantizers.letter import COLLABORATIVE
from recbole_macrec.semantic_ids.rows import Features
from recbole_macrec.utils.distributed import Group, current_group
from recbole_macrec.utils.share_files import share_files


class SemanticIDDataset(SequentialInteractions, SequentialDataset):
    """A SequentialDataset with :attr:`semantic_ids`, learnt from item features or training interactions, or read from published
    files.

    Learnt IDs are stored as bundles in ``<dataset folder>/semantic_ids/`` and reused until something they depend on
    changes; published ones are ``<dataset folder>/semantic_ids/<modality>.json``. ``semantic_ids: auto`` learns IDs if
    every modality has imported features, if the quantizer reads no features, or if there are no published IDs.
    Features of interactions depend on the split, so their IDs are learnt also beside published ones.

    Interactions are expanded into prefix samples, as in every SequentialDataset. If MODEL_TYPE of the configuration is
    GENERAL, they are not: split, order and evaluation are then those of RecBole's general models.
    """

    _semantic_ids: SemanticIDs | None = None
    _training_part: SequentialDataset | None = None  # while the semantic IDs are built

    @property
    def semantic_ids(self) -> SemanticIDs:
        """IDs of the internal items 1 .. item_num - 1, in this order; built on first use.

        Of several processes the first one builds them, with the help of the others where a quantizer is trained, and the others
        receive them.
        """
        if self._semantic_ids is None:
            group = current_group()
            self._semantic_ids = group.share(self._prepare_semantic_ids()) if group.first else self._help_to_prepare(group)
            group.check_same({"the semantic IDs": self._semantic_ids.fingerprint()})
        return self._semantic_ids

    def data_augmentation(self) -> None:
        if self._sequential:
            super().data_augmentation()

    def inter_matrix(self, form: str = "coo", value_field: str | None = None):
        matrix = super().inter_matrix if self._sequential else partial(Dataset.inter_matrix, self)
        return matrix(form, value_field)

    def build(self) -> list:
        """Split the dataset. All parts share the semantic IDs, if the model needs them."""
        parts = super().build() if self._sequential else Dataset.build(self)
        self._training_matrix, self._training_part = parts[0]._interaction_matrix(), parts[0]
        ids = self.semantic_ids if reads_semantic_ids(self.config) else None
        for part in parts:
            part._semantic_ids, part._training_matrix = ids, self._training_matrix
        self._training_part = None
        return parts

    def __getstate__(self) -> dict:
        """Save the dataset without its IDs: they are looked up again, so a stale copy is never loaded."""
        return {**self.__dict__, "_semantic_ids": None}

    def _call_helpers(self, settings: SemanticIDSettings) -> Group:
        """Give the other processes the features that ``settings`` need; they then learn too, in :meth:`_help_to_prepare`."""
        group = current_group()
        group.share(settings)
        share_files(*self._feature_files(settings))
        return group

    def _help_to_prepare(self, group: Group) -> SemanticIDs:
        """Run in all processes but the first one: train the quantizer together with it on request, and receive the IDs."""
        received = group.share(doing="prepares the semantic IDs")
        while isinstance(received, SemanticIDSettings):  # once per tokenization
            share_files(*self._feature_files(received))
            tokens = sorted(self.field2id_token[self.iid_field][1:].tolist())
            tables = {modality: FeatureTable.load(self._folder(), modality) for modality in received.modalities}
            features = {modality: FeatureRows(table.matrix, table.row_numbers(tokens)) for modality, table in tables.items()}
            represent_and_learn(features, None, received, Execution(self.config["device"], show_progress=False, group=group))
            received = group.share(doing="prepares the semantic IDs")
        return received

    def _feature_files(self, settings: SemanticIDSettings) -> tuple:
        """The folder of features, and the names of the files of the modalities; the record of an encoding comes first, as
        features without one count as imported."""
        kinds = ("encoded.json", "items.txt", "npy")
        return self._folder() / "features", *(f"{modality}.{kind}" for modality in settings.modalities for kind in kinds)

    def _is_training_part(self) -> bool:
        """Also true for the dataset of a data loader that was read from a file, which has no :attr:`_training_part`."""
        return self._training_matrix is not None and not (self._interaction_matrix() != self._training_matrix).nnz

    def _auxiliary_features(self, settings: SemanticIDSettings) -> dict[str, np.ndarray]:
        """Features [N, D] that the quantizer needs besides those of the modalities, in the order of the items."""
        if COLLABORATIVE not in settings.auxiliary_features:
            return {}
        part = self._training_part
        if part is None and self._is_training_part():
            part = self
        if part is None:
            raise UserError(
                f"quantizer is {settings.quantizer}, which needs the training part of the data; run a model with it."
            )
        vectors = collaborative_vectors(
            part,
            self._folder() / IDS_FOLDER,
            width=settings.code_dim,
            epochs=settings.cf_epochs,
            seed=settings.semantic_id_seed,
            show_progress=bool(self.config["show_progress"]),
        )
        return {COLLABORATIVE: vectors}

    def _learn(self, settings: SemanticIDSettings, tokens: list[str], interactions: csr_matrix | None) -> list[SemanticIDs]:
        """Learn the IDs of each tokenization, or read their bundles; the tokenizations differ in ``semantic_id_seed``."""
        config = self.config
        tables = self.feature_tables(settings.read_modalities)
        features: dict[str, Features] = {m: FeatureRows(table.matrix, table.row_numbers(tokens)) for m, table in tables.items()}
        parts = []
        for number in range(settings.tokenizations):
            seeded = settings.replace(semantic_id_seed=(settings.semantic_id_seed + number) % 2**32)
            ids = build_semantic_ids(
                features | self._auxiliary_features(seeded),
                tokens,
                seeded,
                self._folder() / IDS_FOLDER,
                Execution(config["device"], bool(config["show_progress"])),
                interactions=interactions,
                user_tokens=self._user_tokens,
                expected=config[TRAINED_ON] if number == 0 else None,
                helpers=partial(self._call_helpers, seeded),
            )
            parts.append(ids.renamed(number))
        return parts

    def _prepare_semantic_ids(self) -> SemanticIDs:
        config, folder = self.config, self._folder()
        settings = settings_of(config, folder)
        names = read_id_names(config, settings)
        if reads_semantic_ids(config):
            config.model_class.check_modalities(list(dict.fromkeys(map(modality_of, names))))
        published, learnt = published_and_learnt(config, settings, folder)
        if unread := unread_published(settings, folder, published):
            self.logger.warning(
                f"The semantic IDs {', '.join(unread)} are learnt, although {folder / IDS_FOLDER} has published ones: "
                "semantic_ids is auto, and the dataset has what they are learnt from. Set semantic_ids to published or learn."
            )
        tokens = self.field2id_token[self.iid_field][1:].tolist()
        interactions = None if self._training_matrix is None else csr_matrix(self._training_matrix[:, 1:])
        parts = [published_semantic_ids(published, tokens, settings, interactions)] if published else []
        if learnt is not None:
            parts += self._learn(learnt, tokens, interactions)
        counts = None if interactions is None else item_counts(interactions)
        ids = replace(reduce(SemanticIDs.joined, parts).only(names), item_counts=counts)
        for modality in ids.modalities:
            self.logger.info(
                set_color("Semantic IDs", "pink")
                + f" {modality}: {'published' if modality in published else 'learnt'}, sizes {list(ids.sizes[modality])}, "
                + ", ".join(f"{k} {v:.4g}" for k, v in ids.statistics[modality].items() if isinstance(v, int | float))
            )
        return ids
