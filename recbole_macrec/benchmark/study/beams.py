"""Rank the test users of a finished run again, with other numbers of beams and with exact decoding."""
from collections.abc import Sequence

from recbole.quick_start import load_data_and_model
from recbole.utils import get_trainer

from recbole_macrec.benchmark.compare.run import fresh_logging
from recbole_macrec.benchmark.compare.runs import Run, read_json, write_json
from recbole_macrec.config.plain import plain
from recbole_macrec.errors import UserError
from recbole_macrec.model.base import generative_names

BEAMS = "beams.json"  # in the run's folder: {"10": metrics, ..., "exact": metrics}


def rank_with(run: Run, beams: Sequence[int]) -> dict[str, dict[str, float]]:
    """Return the test metrics for every number of beams (as text) and for ``"exact"``.

    Metrics computed earlier are read from the folder of the run.

    Raises:
        UserError: if the model has no beam search, or a number of beams is below the largest topk.
    """
    path = run.folder / BEAMS
    metrics = read_json(path) if path.is_file() else {}
    missing = [decoding for decoding in [*map(str, beams), "exact"] if decoding not in metrics]
    if not missing:
        return metrics
    if run.spec.model not in generative_names():
        raise UserError(
            f"{run.spec.model} has no beam search; choose generative models with --models: {', '.join(generative_names())}."
        )
    topk = max(run.result["settings"]["topk"])
    if min(beams) < topk:
        raise UserError(f"beams has {min(beams)}, below the largest topk {topk}; remove it from the study, or lower topk.")
    with fresh_logging():
        config, model, _, _, _, test_data = load_data_and_model(str(run.folder / run.result["checkpoint"]))
        for decoding in missing:
            # exact ranking keeps the number of beams, as fusion = official combines lists of this length
            changes = {"decode": "exact"} if decoding == "exact" else {"decode": "beam", "beams": int(decoding)}
            trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model.with_ranking(**changes))
            metrics[decoding] = plain(trainer.evaluate(test_data, load_best_model=False))
            write_json(metrics, path)
    return metrics
