"""Ranks the test users of a finished run again, with other numbers of beams and exactly."""
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
    """Number of beams as text, or "exact" -> the test metrics; what was ranked before is read from the run's folder.

    Raises:
        UserError: for a model that does not decode, or fewer beams than the largest topk.
    """
    path = run.folder / BEAMS
    found = read_json(path) if path.is_file() else {}
    missing = [way for way in [*map(str, beams), "exact"] if way not in found]
    if not missing:
        return found
    if run.spec.model not in generative_names():
        raise UserError(f"{run.spec.model} has no beams; name generative models: {', '.join(generative_names())}.")
    topk = max(run.result["settings"]["topk"])
    if min(beams) < topk:
        raise UserError(f"beams has {min(beams)}, below the largest topk {topk}; leave it out of the study, or lower topk.")
    with fresh_logging():
        config, model, _, _, _, test_data = load_data_and_model(str(run.folder / run.result["checkpoint"]))
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
        for way in missing:
            model.decode = "exact" if way == "exact" else "beam"
            model.beams = int(way) if way != "exact" else config["num_beams"]  # fusion: official fuses lists of that length
            found[way] = plain(trainer.evaluate(test_data, load_best_model=False))
            write_json(found, path)
    return found
