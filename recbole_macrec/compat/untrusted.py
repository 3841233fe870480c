"""Repairs of RecBole where reading a file or an option can run any code in it: pickles, and texts passed to ``eval``."""
import ast
import contextlib
import functools
import importlib
import inspect
import os

from recbole_macrec.compat.patching import ModuleWith, replace_in_recbole, set_in

_unpickling_allowed = False  # whether RecBole may unpickle files now


def _trusting(function, config_of):
    """Wrap ``function`` so that files are unpickled in it if ``trust_checkpoint`` is set in its config.

    Args:
        config_of: returns the config for the arguments of ``function``.
    """

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        global _unpickling_allowed
        before, _unpickling_allowed = _unpickling_allowed, bool(config_of(*args, **kwargs)["trust_checkpoint"])
        try:
            return function(*args, **kwargs)
        finally:
            _unpickling_allowed = before

    return wrapped


def keep_checkpoints_free_of_pickles() -> None:
    """RecBole pickles its Config, and modules, into checkpoints (trainer.py:308, 770, 999), so that reading one
    (trainer.py:323, 583; s3rec.py:120 and other models with a pretrained path) can run any code; torch 2.6 refuses to. Its
    trainers now write tensors and plain values, and read pickles only with ``trust_checkpoint``. Remove it when RecBole saves
    plain values."""
    import torch

    def save(state, file, **kwargs):
        from recbole_macrec.config.plain import plain, plain_config
        from recbole_macrec.trainer.checkpoint import as_tensors, relative_folder, save_checkpoint

        config, other = state["config"], state["other_parameter"] or {}
        # modules are in state_dict
        other = {name: value for name, value in other.items() if not isinstance(value, torch.nn.Module)}
        replaced = {"config": plain_config(config), "data_folder": relative_folder(config["data_path"], file)}
        if "best_valid_score" in state:
            replaced["best_valid_score"] = plain(state["best_valid_score"])
        save_checkpoint({**state, **replaced, "other_parameter": as_tensors(other)}, file)

    def load(file, map_location=None):
        from recbole_macrec.trainer.checkpoint import check_complete, from_tensors, read_checkpoint, read_together

        device = map_location or "cpu"
        state = read_together(file, device, functools.partial(read_checkpoint, trusted=_unpickling_allowed))
        check_complete(state, ["state_dict"], file)
        if "other_parameter" in state:
            state["other_parameter"] = from_tensors(state["other_parameter"], device)
        return state

    trainer = importlib.import_module("recbole.trainer.trainer")
    set_in(trainer, torch=ModuleWith(torch, save=save, load=load))
    for name in ("evaluate", "resume_checkpoint"):
        setattr(trainer.Trainer, name, _trusting(getattr(trainer.Trainer, name), lambda self, *args, **kwargs: self.config))
    for package, name in (
        ("sequential_recommender", "S3Rec"),
        ("general_recommender", "ConvNCF"),
        ("general_recommender", "NAIS"),
        ("general_recommender", "RaCT"),
        ("general_recommender", "NeuMF"),
        ("context_aware_recommender", "KD_DAGFM"),
    ):
        module = importlib.import_module(f"recbole.model.{package}.{name.lower()}")
        set_in(module, torch=ModuleWith(torch, load=load))
        model = getattr(module, name)
        model.__init__ = _trusting(model.__init__, lambda self, config, dataset: config)


@contextlib.contextmanager
def loading(state):
    """Let ``torch.load(state)`` return ``state``, since ``load_data_and_model`` (quick_start.py:250) accepts only files."""
    import torch

    load = torch.load
    torch.load = lambda file, *args, **kwargs: state if file is state else load(file, *args, **kwargs)
    try:
        yield
    finally:
        torch.load = load


def unpickle_datasets_on_trust() -> None:
    """``create_dataset`` and ``load_split_dataloaders`` (data/utils.py:59, 118) unpickle the file of ``save_dataset`` or
    ``save_dataloaders`` if there is one, which can run any code. They now do so only with ``trust_checkpoint``. Without it, a
    file that an option names is refused, and one in checkpoint_dir is created again. LDiffRec (ldiffrec.py:232) unpickles its
    ``item_emb.npy``; an array of numbers needs no pickle. Remove it when RecBole saves plain values."""
    import numpy as np

    from recbole_macrec.errors import UserError

    vectors = importlib.import_module("recbole.model.general_recommender.ldiffrec")
    set_in(vectors, np=ModuleWith(np, load=lambda file, **kwargs: np.load(file)))
    module = importlib.import_module("recbole.data.utils")
    set_in(
        module, os=ModuleWith(os, path=ModuleWith(os.path, exists=lambda file: _unpickling_allowed and os.path.exists(file)))
    )

    def checked(function, option):
        @functools.wraps(function)
        def wrapped(config):
            if config[option] and not config["trust_checkpoint"]:
                raise UserError(
                    f"{option} is {config[option]!r}, a pickle, and reading it runs any code in it; leave it out, or set "
                    "trust_checkpoint=True if you trust its author."
                )
            return function(config)

        return _trusting(wrapped, lambda config: config)

    for name, option in ("create_dataset", "dataset_save_path"), ("load_split_dataloaders", "dataloaders_save_path"):
        replace_in_recbole(name, checked(getattr(module, name), option))


def read_texts_as_literals() -> None:
    """Values of options (configurator.py:131), choices of HyperTuning (hyper_tuning.py:239) and KD_DAGFM's ``teacher``
    (kd_dagfm.py:44) are strings that RecBole passes to ``eval``, which runs any code; ``--pre_model_path=input.pth`` raises
    AttributeError. They are now read as Python literals, other values of options as strings, and a teacher as a class of that
    module. Remove it when RecBole parses literals."""

    def literal(text):
        try:
            return ast.literal_eval(text)
        except (ValueError, TypeError, MemoryError, RecursionError) as error:
            raise SyntaxError(f"{text!r} is not a Python literal") from error

    set_in(importlib.import_module("recbole.config.configurator"), eval=literal)
    set_in(importlib.import_module("recbole.trainer.hyper_tuning"), eval=literal)
    teachers = importlib.import_module("recbole.model.context_aware_recommender.kd_dagfm")
    set_in(
        teachers, eval=lambda name: {kind.__name__: kind for kind in vars(teachers).values() if inspect.isclass(kind)}[name]
    )
