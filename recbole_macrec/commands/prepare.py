"""``python -m recbole_macrec.data prepare NAME``: the steps of a run before it learns semantic IDs."""
from __future__ import annotations

import argparse
import logging
from pathlib import Path

from recbole.config import Config

from recbole_macrec.config.options import (
    PACKAGED_DATASET,
    check_model,
    check_options,
    config_of,
    parse_settings,
    read_config_file,
)
from recbole_macrec.data.encoders import encoder_of, reads_interactions
from recbole_macrec.data.encoders.content import ItemContent
from recbole_macrec.data.encoders.encode import Encoding, load_or_encode
from recbole_macrec.data.features import FeatureTable
from recbole_macrec.data.importers.raw import manifest
from recbole_macrec.errors import UserError
from recbole_macrec.model.preparation import prepare_dataset, reads_features, reads_semantic_ids
from recbole_macrec.semantic_ids.dataset_settings import filled_with_mean, modalities_of, published_and_learnt, settings_of
from recbole_macrec.utils.distributed import Group, group
from recbole_macrec.utils.launcher import local_device

OWN = ("config_files", "model", "verbose", "help")


def prepare_command(args: argparse.Namespace) -> None:
    """Prepare ``args.dataset`` for ``args.model``; ``args.settings`` are the options of a run, ``--key=value``.

    Raises:
        UserError: for unknown options, a dataset without a ``source``, and errors of the preparation.
    """
    with group() as processes:
        _prepare(args, _configure(args), processes)


def _prepare(args: argparse.Namespace, config: Config, processes: Group) -> None:
    if args.dataset == PACKAGED_DATASET:
        raise UserError(f"dataset {args.dataset} is part of RecBole's package and needs no preparation; start a run")
    if not config["source"]:
        raise UserError(f"dataset {args.dataset} has no source, neither in properties/dataset/{args.dataset}.yaml nor in "
                        f"--config_files; write one, or import it: python -m recbole_macrec.data import SRC "
                        f"--dataset={args.dataset}")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("recbole_macrec").setLevel(logging.INFO)
    folder = Path(config["data_path"])
    prepare_dataset(config)
    content = ItemContent.from_config(config, folder, args.dataset)
    encoding = Encoding(filled_with_mean(config), local_device(), show_progress=True, processes=processes)
    tables: dict[str, FeatureTable] = {}
    for modality, encoder in _encoders(config).items():
        tables |= load_or_encode(content, [modality], encoder, encoding)
    if processes.first:
        counts = (manifest.read(folder) or {}).get("counts", {})
        print(f"{folder}: " + (", ".join(f"{count:,} {name}" for name, count in counts.items()) or "imported"))
        for modality, table in tables.items():
            print(f"features {modality}: {len(table.matrix):,} items x {table.matrix.shape[1]:,} dimensions")


def _encoders(config: Config) -> dict[str, dict]:
    """Return {modality: argument ``encoders`` of item_features} for the modalities that need no training interactions."""
    folder = Path(config["data_path"])
    read: list[str] = []
    if reads_semantic_ids(config):
        _, learnt = published_and_learnt(config, settings_of(config, folder), folder)
        read += learnt.read_modalities if learnt else ()
    if reads_features(config):
        read += modalities_of(config, folder, with_ids=False)
    chosen = {m: encoder_of(config["encoders"] or {}, m) for m in read}
    return {m: {} if encoder is None else {m: encoder} for m, encoder in chosen.items() if not reads_interactions(encoder)}


def _configure(args: argparse.Namespace) -> Config:
    settings = {"data_path": str(args.data_path), **parse_settings(args.settings, OWN)}
    check_model(args.model)
    check_options(settings, [args.model], args.dataset, "the command line", OWN)
    files = args.config_files.split()
    for file in files:
        check_options(read_config_file(file), [args.model], args.dataset, file)
    return config_of(args.model, args.dataset, files, settings)
