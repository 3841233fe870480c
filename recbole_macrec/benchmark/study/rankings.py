"""Rank the test users of a finished run again, with other numbers of beams, exact scores, or other fusions."""
import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from recbole.quick_start import load_data_and_model
from recbole.utils import get_trainer

from recbole_macrec.benchmark.compare.run_files import read_json, write_json
from recbole_macrec.benchmark.compare.run_model import fresh_logging
from recbole_macrec.benchmark.compare.runs import Run
from recbole_macrec.config.plain import plain
from recbole_macrec.data.id_files import modality_of
from recbole_macrec.errors import UserError
from recbole_macrec.generation.decoding.ranker import RankingSettings
from recbole_macrec.model.base import generative_names
from recbole_macrec.semantic_ids.dataset_settings import settings_of
from recbole_macrec.trainer.callbacks import TrainingCallback
from recbole_macrec.trainer.dense_share import choose_dense_share
from recbole_macrec.utils.reporting import hidden_log

RANKINGS = "rankings.json"  # in the run's folder: the ranked checkpoint, and name -> the fields of RankingResult


class RankingResult(NamedTuple):
    """Result of ranking the test rows of a run with one set of ranking options.

    Attributes:
        options: changed fields of :class:`~recbole_macrec.generation.decoding.ranker.RankingSettings`.
        metrics: of the test.
        hits: numbers of the rows with a target among the first ``max(topk)`` items.
        rows: number of rows.
        seconds: time of the test.
    """

    options: dict[str, Any]
    metrics: dict[str, float]
    hits: list[int]
    rows: int
    seconds: float


class HitCollector(TrainingCallback):
    """Collects whether each test row has a target among its first ``k`` items."""

    def __init__(self, k: int):
        self.k = k
        self.hits: list[torch.Tensor] = []

    def on_evaluation_batch(self, trainer, stage, scores, interaction, rows, items):
        found = (torch.topk(scores, self.k, dim=-1).indices[rows] == items.unsqueeze(1)).any(1)
        hits = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
        hits[rows[found]] = True
        self.hits.append(hits.cpu())


def check_beams(model: str, topk: int, beams: Iterable[int]) -> None:
    """Raise a UserError if ``model`` has no beam search, or one of the numbers ``beams`` is below the largest ``topk``."""
    if model not in generative_names():
        raise UserError(f"{model} has no beam search; choose generative models with --models: {', '.join(generative_names())}.")
    if too_few := [number for number in beams if number < topk]:
        raise UserError(f"beams has {too_few[0]}, below the largest topk {topk}; remove it from the study, or lower topk.")


def check_rankings(config, rankings: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise a UserError for ranking options that a generative model with the settings ``config`` cannot have."""
    tokenizations, modalities = config["tokenizations"] or 1, len(settings_of(config, Path(config["data_path"])).ids)
    settings = RankingSettings.from_config(config, tokenizations)
    for name, options in rankings.items():
        try:
            changed = settings.changed(_with_effect(options, modalities), tokenizations).for_modalities(modalities)
        except UserError as error:
            raise UserError(f"The ranking {name} of the study: {error}") from None
        if changed.decode == "fused" and not config["dense_head"]:
            raise UserError(f"The ranking {name} of the study: decode is fused, which needs dense_head: True in 'settings'.")


def _with_effect(options: Mapping[str, Any], modalities: int) -> dict[str, Any]:
    """The ranking options that change something for a model of this number of modalities."""
    return {name: value for name, value in options.items() if name != "fusion" or modalities > 1}


def rank_with(
    run: Run, rankings: Mapping[str, Mapping[str, Any]], data_path: str | None = None
) -> dict[str, RankingResult]:
    """Rank the test rows with each set of options in ``rankings``, name -> changed ranking options.

    Results of an earlier call with the same checkpoint are read from the folder of the run. For a model of one modality
    ``fusion`` has no effect; rankings that differ in it alone are left out, except for the first. For ``decode: fused`` the
    weight of the dense head is chosen on the validation data. The caller calls :func:`check_rankings` before the run.

    Args:
        data_path: folder of the datasets; None: that of the run.
    """
    topk = max(run.result["settings"]["topk"])
    modalities = len({modality_of(name) for name in run.result["test_detail"]} - {"fused", "generative", "dense"})
    requested: dict[str, dict[str, Any]] = {}
    for name, options in rankings.items():
        own = _with_effect(options, modalities)
        if own not in requested.values():
            requested[name] = own
    path, checkpoint = run.folder / RANKINGS, run.result["checkpoint"]
    stored = read_json(path) if path.is_file() else {}
    same = stored.get("checkpoint") == checkpoint  # another one if the run was trained again; older versions stored none
    known = {name: RankingResult(**fields) for name, fields in stored["rankings"].items()} if same else {}
    missing = [name for name, options in requested.items() if name not in known or known[name].options != options]
    if missing:
        with fresh_logging(), hidden_log(logging.INFO):
            config, model, _, _, valid_data, test_data = load_data_and_model(str(run.folder / checkpoint), data_path)
            for name in missing:
                changed = model.with_ranking(**requested[name])
                if changed.ranking.decode == "fused":  # a training with another decode chooses no weight
                    choose_dense_share(changed, valid_data, config["valid_metric"])
                known[name] = _ranked(config, changed, test_data, requested[name], topk)
                fields = {key: ranked._asdict() for key, ranked in known.items()}
                write_json({"checkpoint": checkpoint, "rankings": fields}, path)
    return {name: known[name] for name in requested}


def _ranked(config, model, test_data, options: dict[str, Any], topk: int) -> RankingResult:
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    collector = HitCollector(topk)
    trainer.callbacks.append(collector)
    began = time.perf_counter()
    metrics = plain(trainer.evaluate(test_data, load_best_model=False))
    hits = torch.cat(collector.hits).numpy()
    seconds = round(time.perf_counter() - began, 3)
    return RankingResult(options, metrics, np.flatnonzero(hits).tolist(), len(hits), seconds)
