"""RecBole's entry points for spawned processes and for loading trained models."""
import os

from recbole.config import Config
from recbole.quick_start import quick_start

from recbole_macrec import compat
from recbole_macrec.config.options import TRAINED_ON, TRUST
from recbole_macrec.config.plain import config_from_plain
from recbole_macrec.errors import UserError
from recbole_macrec.trainer.checkpoint import check_complete, from_tensors, read_checkpoint
from recbole_macrec.trainer.checkpoint_settings import dataset_folder, known_settings, trained_on
from recbole_macrec.utils.distributed import group
from recbole_macrec.utils.launcher import limit_threads

_recbole_load_data_and_model = quick_start.load_data_and_model
_recbole_run_recboles = quick_start.run_recboles


def run_recboles(rank, *args):
    """RecBole's entry point of a spawned process. As it is ours, unpickling it imports the plugin in that process."""
    settings = args[-1]["config_dict"]
    environment = {"RANK": rank + settings["offset"], "LOCAL_RANK": rank, "WORLD_SIZE": settings["world_size"],
                   "LOCAL_WORLD_SIZE": settings["nproc"], "MASTER_ADDR": settings["ip"], "MASTER_PORT": settings["port"]}
    os.environ.update({name: str(value) for name, value in environment.items()})
    limit_threads(settings["nproc"])
    with group():
        return _recbole_run_recboles(rank, *args)


def load_data_and_model(model_file, data_path=None, trust_checkpoint=False):
    """RecBole's ``load_data_and_model`` for checkpoints of tensors and plain values.

    This package writes such checkpoints, and RecBole's trainers do so if this package is imported.

    Args:
        data_path: folder with the dataset's folder; by default at the same place relative to the checkpoint as in training,
            else at the same absolute path.
        trust_checkpoint: also read a checkpoint that RecBole wrote without this package, and a pickled dataset. Any code in
            them is run.

    Raises:
        UserError: the file is missing, truncated, not a checkpoint, or of other data or codes, or the dataset is missing.
    """
    state = read_checkpoint(model_file, trusted=trust_checkpoint)
    config = state.get("config") if isinstance(state, dict) else None
    if isinstance(config, dict):
        config = config_from_plain(config if trust_checkpoint else known_settings(config))
    if not isinstance(config, Config):
        raise UserError(
            f"Checkpoint {model_file} contains no settings of a model; name one that RecBole or recbole_macrec wrote."
        )
    check_complete(state, ["state_dict"], model_file)
    config.final_config_dict.update({TRAINED_ON: trained_on(state), TRUST: trust_checkpoint})
    config.final_config_dict["data_path"] = str(dataset_folder(config, model_file, state.get("data_folder"), data_path))
    state = {**state, "config": config, "other_parameter": from_tensors(state.get("other_parameter"), config["device"])}
    try:
        with compat.loading(state):
            return _recbole_load_data_and_model(state)
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise UserError(
            f"Checkpoint {model_file} does not fit the model that its settings create for the current dataset "
            f"({str(error).splitlines()[-1].strip()}): use the dataset, features and codes it was trained with."
        ) from error
