"""The RecBole dataset of the generative models: a SequentialDataset whose items have semantic IDs."""
import shutil
from pathlib import Path

import numpy as np
from recbole.data.dataset import SequentialDataset
from recbole.utils import set_color
from scipy.sparse import csc_matrix

from recbole_macrec.data.encode import LACKING, is_imported, item_features
from recbole_macrec.data.encoders import create_encoder
from recbole_macrec.data.features import available
from recbole_macrec.data.replace import whole_file
from recbole_macrec.errors import UserError
from recbole_macrec.options import PACKAGED_DATASET
from recbole_macrec.semantic_ids import FeatureRows, SemanticIDs, SemanticIDSettings, build_semantic_ids, published_semantic_ids

FOLDER = "semantic_ids"


def modalities_of(config) -> tuple[list[str], list[str]]:
    """The modalities that the model of ``config`` reads, and those whose features make its semantic IDs."""
    modalities = config["modalities"]
    if not isinstance(modalities, list | tuple) or not modalities:
        raise UserError(f"modalities must be a list such as ['text', 'image'], but it is {modalities!r}.")
    read = list(modalities)[: config["max_modalities"]]
    return read, list(modalities) if config["quantizer"] == "cross_modal_rqvae" else read


def source_of_ids(config, folder: Path, modalities: list[str]) -> str:
    """``learn`` or ``published``: what ``semantic_ids`` says, or what there is where it says ``auto``."""
    source = config["semantic_ids"] or "auto"
    if source not in ("auto", "learn", "published"):
        raise UserError(f"semantic_ids is {source!r}; expected auto, learn or published.")
    if source != "auto":
        return source
    have_features = set(modalities) <= set(available(folder))
    published = not have_features and all(file.is_file() for file in _published(folder, modalities).values())
    return "published" if published else "learn"


def wants_images(config) -> bool:
    """Whether the semantic IDs of ``config`` are learnt from images that are still to be encoded."""
    folder, (_, modalities) = Path(config["data_path"]), modalities_of(config)
    if source_of_ids(config, folder, modalities) == "published":
        return False
    chosen = [(config["encoders"] or {}).get(m) for m in modalities if not is_imported(folder, m)]
    return any(create_encoder(encoder, device="cpu").kind == "image" for encoder in chosen if encoder is not None)


def mean_for(config) -> list[str]:
    """The kinds of content that an item may lack, and then has the mean feature of the others."""
    return [kind for kind, option in LACKING.items() if config[option] == "mean"]


def _published(folder: Path, modalities: list[str]) -> dict[str, Path]:
    return {m: folder / FOLDER / f"{m}.json" for m in modalities}


class SemanticIDDataset(SequentialDataset):
    """Adds :attr:`semantic_ids`: learnt from item features, or read from files that others published.

    Learnt IDs lie as bundles in ``<dataset folder>/semantic_ids/`` and are reused while nothing they depend on
    changes; published ones are ``<dataset folder>/semantic_ids/<modality>.json``. ``semantic_ids: auto`` learns when
    every modality has features (or content to encode) and falls back to published IDs when those are all there is.
    """

    _semantic_ids: SemanticIDs | None = None
    _training: SequentialDataset | None = None

    @property
    def semantic_ids(self) -> SemanticIDs:
        """IDs of the internal items 1 .. item_num - 1, in that order; built on first use."""
        if self._semantic_ids is None:
            self._semantic_ids = self._prepare_semantic_ids()
        return self._semantic_ids

    def build(self) -> list:
        """Split, and give every part the same semantic IDs."""
        parts = super().build()
        self._training = parts[0]
        ids = self.semantic_ids
        for part in parts:
            part._semantic_ids = ids
        return parts

    def training_interactions(self) -> csc_matrix:
        """Interactions of the training part alone, [user_num, item_num]; once :meth:`build` has split."""
        return csc_matrix(self._training.inter_matrix())

    def training_users(self) -> dict[str, np.ndarray]:
        """Item token -> the users who took the item in the training part, sorted."""
        matrix = self.training_interactions()
        matrix.sort_indices()
        return dict(zip(self.field2id_token[self.iid_field][1:], np.split(matrix.indices, matrix.indptr[1:-1])[1:]))

    def __getstate__(self) -> dict:
        """Leave the IDs out of saved datasets: they are looked up again, so a stale copy can never load."""
        return {**self.__dict__, "_semantic_ids": None, "_training": None}

    def _folder(self) -> Path:
        """Where features and IDs lie: the dataset's folder, or ``dataset/NAME`` here for the one in RecBole's package."""
        folder = Path(self.dataset_path)
        if self.dataset_name != PACKAGED_DATASET:
            return folder
        own, items = Path("dataset") / self.dataset_name, f"{self.dataset_name}.item"
        if not (own / items).exists():
            own.mkdir(parents=True, exist_ok=True)
            with whole_file(own / items) as fresh:
                shutil.copyfile(folder / items, fresh)
        return own

    def _prepare_semantic_ids(self) -> SemanticIDs:
        config, folder = self.config, self._folder()
        read, modalities = modalities_of(config)
        settings = SemanticIDSettings.from_config(config, modalities)
        tokens = self.field2id_token[self.iid_field][1:].tolist()
        source = source_of_ids(config, folder, modalities)
        if source == "published":
            ids = published_semantic_ids(_published(folder, modalities), tokens, settings)
        else:
            tables = item_features(
                folder,
                self.dataset_name,
                modalities,
                config["encoders"] or {},
                config["text_fields"] or [],
                config["image_field"] or "image",
                device=config["device"],
                show_progress=bool(config["show_progress"]),
                users=self.training_users if self._training is not None else None,
                mean_for=mean_for(config),
            )
            ids = build_semantic_ids(
                {m: FeatureRows(table.matrix, table.rows(tokens)) for m, table in tables.items()},
                tokens,
                settings,
                folder / FOLDER,
                device=config["device"],
                show_progress=bool(config["show_progress"]),
            )
        ids = ids.only(read)
        for modality in ids.modalities:
            self.logger.info(
                set_color("Semantic IDs", "pink")
                + f" {modality}: {source}, sizes {list(ids.sizes[modality])}, "
                + ", ".join(f"{k} {v:.4g}" for k, v in ids.statistics[modality].items() if isinstance(v, int | float))
            )
        return ids
