"""Hooks this package into RecBole: models, property files, datasets, evaluation and checkpoints."""
import importlib

from recbole.quick_start import quick_start
from recbole.utils import dataset_arguments, general_arguments

from recbole_macrec.baselines import BASELINES, SequentialEASE
from recbole_macrec.config.options import TRUST
from recbole_macrec.config.registry import model_names
from recbole_macrec.config.schema.features import FeatureOptions
from recbole_macrec.config.schema.semantic_ids import SemanticIDOptions
from recbole_macrec.model import MODELS
from recbole_macrec.model.base import GenerativeRecommender
from recbole_macrec.model.dataset import SemanticIDDataset
from recbole_macrec.model.registered import RegisteredModel
from recbole_macrec.plugin.configuration import insert_property_files
from recbole_macrec.plugin.datasets import check_splits, prepare_before_loading, report_users_without_negatives
from recbole_macrec.plugin.evaluation import (
    exclude_seen_items,
    limit_ranked_users_to_memory,
    limit_validation_users,
    rank_as_the_evaluation_in_case_studies,
)
from recbole_macrec.plugin.models import register_model
from recbole_macrec.plugin.runs import load_data_and_model, run_recboles
from recbole_macrec.recommend import Recommender
from recbole_macrec.trainer import GenerativeTrainer
from recbole_macrec.trainer.closed_form import ClosedFormTrainer

__all__ = ["register", "register_model"]


def register() -> None:
    """Register our models, property files, datasets, evaluation and checkpoints with RecBole. Repeated calls do nothing."""
    if model_names():
        return
    RegisteredModel.trainer_class, RegisteredModel.dataset_class = GenerativeTrainer, SemanticIDDataset
    SequentialEASE.trainer_class = ClosedFormTrainer
    for model in [*MODELS, *BASELINES]:
        register_model(model)
    names = [*SemanticIDOptions.model_fields, *FeatureOptions.model_fields, "MODEL_TYPE"]
    dataset_arguments.extend(name for name in names if name not in dataset_arguments)
    general_arguments.append(TRUST)
    GenerativeRecommender.recommender_class = Recommender
    insert_property_files()
    prepare_before_loading()
    check_splits()
    report_users_without_negatives()
    limit_ranked_users_to_memory()
    limit_validation_users()
    exclude_seen_items()
    rank_as_the_evaluation_in_case_studies()
    for module in (quick_start, importlib.import_module("recbole.quick_start")):
        vars(module).update(run_recboles=run_recboles, load_data_and_model=load_data_and_model)
