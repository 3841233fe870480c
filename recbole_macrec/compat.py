"""Repairs of RecBole 1.2.0 and 1.2.1 for current numpy, pandas, scipy, torch and ray; all of them are in this file.

Each function below is one repair. Its docstring names the problem, its place (lines of 1.2.1), and when the repair can be
removed. :func:`apply` runs all repairs once. If a library behaves as RecBole expects, a repair changes nothing.
"""
import ast
import contextlib
import functools
import importlib
import inspect
import os
import sys
import types
import warnings
import weakref

from recbole_macrec.data.quoting import quoting

_applied = False


def apply() -> None:
    """Apply every repair. Repeated calls do nothing."""
    global _applied
    if _applied:
        return
    _applied = True
    restore_numpy_names()
    import_without_ray()
    read_missing_sequences_as_empty()
    fill_missing_features()
    measure_sequences_one_by_one()
    hand_torch_writable_columns()
    restore_scipy_dok_update()
    keep_checkpoints_free_of_pickles()
    unpickle_datasets_on_trust()
    report_plain_metrics()
    scale_gradients_without_warning()
    read_texts_as_literals()
    join_launched_processes()
    wrap_on_own_device()
    make_folders_together()
    name_files_of_each_run()
    share_checkpoint_of_first_process()
    evaluate_each_user_once()
    train_without_anomaly_detection()
    order_by_exact_time()
    count_training_interactions()
    validate_models_of_one_epoch()
    evaluate_without_dropout()
    collect_plain_values()
    stop_where_the_loss_diverges()
    measure_the_load_without_waiting()


def restore_numpy_names() -> None:
    """numpy 1.24 and 2.0 removed the names that RecBole uses (configurator.py:627-635, interaction.py:31,
    metrics.py:90-, hyper_tuning.py:386). ``Config`` restores some, from names that were removed too, and
    ``load_data_and_model`` none. Remove it when RecBole uses no removed type."""
    import numpy as np

    names = {
        "float_": np.float64, "complex_": np.complex128, "unicode_": np.str_, "bool8": np.bool_,
        "bool": np.bool_, "int": np.int_, "float": np.float64, "complex": np.complex128,
        "object": np.object_, "str": np.str_, "long": np.int_, "unicode": np.str_,
    }  # fmt: skip
    for name, dtype in names.items():
        if name not in vars(np):
            setattr(np, name, dtype)


def import_without_ray() -> None:
    """``recbole.quick_start`` imports ``ray.tune`` for one call of ``tune.report`` (quick_start.py:21, 225). ray <=
    2.6.3 needs pkg_resources and np.bool8 and has no wheel for Python 3.12; newer ray takes a dict. So RecBole is
    imported with a placeholder for ray, and reports go to the ray session of the process. Remove it when RecBole imports ray
    lazily."""
    hidden = {name: sys.modules.pop(name, None) for name in ("ray", "ray.tune")}
    ray, tune = types.ModuleType("ray"), types.ModuleType("ray.tune")
    _set_in(ray, tune=tune)
    sys.modules.update({"ray": ray, "ray.tune": tune})
    try:
        quick_start = importlib.import_module("recbole.quick_start.quick_start")
    finally:
        for name, module in hidden.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    _set_in(quick_start, tune=types.SimpleNamespace(report=_report_to_ray))


def _report_to_ray(**metrics) -> None:
    """Report to the ray session of this process in the form that its version accepts; without a session do nothing."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return
    from ray import tune

    parameter = inspect.signature(tune.report).parameters.get("metrics")
    if parameter and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
        tune.report(metrics)
        return
    try:
        tune.report(**metrics)
    except (TypeError, DeprecationWarning):
        importlib.import_module("ray.train").report(metrics)


@contextlib.contextmanager
def _without_chain_warnings():
    """Silence the warnings of pandas about chained assignments: pandas 3 that they have no effect, pandas 2 that they will have
    none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A value is (being|trying to be) set on a copy")
        yield


class _ModuleWith(types.ModuleType):
    """A view of ``module`` for one of RecBole's modules, in which ``names`` are replaced."""

    def __init__(self, module, **names):
        super().__init__(module.__name__)
        self.__dict__.update(names, _module=module)

    def __getattr__(self, name):
        return getattr(self._module, name)


def _set_in(module: types.ModuleType, **names) -> None:
    """Set module-level ``names`` of a module."""
    vars(module).update(names)


def read_missing_sequences_as_empty() -> None:
    """pandas 3: ``df[field].fillna(value="", inplace=True)`` (dataset.py:501) fills a temporary object, and the following
    ``.split`` gets NaN. Columns are now filled while reading; text columns stay ``object``, as before pandas 3. Remove it when
    RecBole assigns the filled column. Quotes that are text (quoting.py) are read as text by the same repair
    (dataset.py:486)."""
    module = importlib.import_module("recbole.data.dataset.dataset")
    pandas = module.pd

    def read_csv(path, **kwargs):
        frame = pandas.read_csv(path, quoting=quoting(path, kwargs["delimiter"], kwargs["encoding"]), **kwargs)
        for column in frame.select_dtypes(exclude="number").columns:
            values = frame[column].astype(object)
            frame[column] = values.where(values.notna(), "" if str(column).endswith("_seq") else None)
        return frame

    _set_in(module, pd=_ModuleWith(pandas, read_csv=read_csv))
    module.Dataset._load_feat = _within(_without_chain_warnings, module.Dataset._load_feat)


def fill_missing_features() -> None:
    """pandas 3: the chained ``fillna(inplace=True)`` of ``Dataset._fill_nan`` (dataset.py:648, 650) fills a temporary
    object. The same values are assigned before RecBole's loop runs. Remove it when RecBole assigns the filled column."""
    from recbole.data.dataset import Dataset
    from recbole.utils import FeatureType

    original = Dataset._fill_nan

    @functools.wraps(original)
    def _fill_nan(self):
        for feat in (getattr(self, name) for name in self.feat_name_list):
            for field in feat:
                if self.field2type[field] == FeatureType.TOKEN:
                    feat[field] = feat[field].fillna(0)
                elif self.field2type[field] == FeatureType.FLOAT:
                    feat[field] = feat[field].fillna(feat[field].mean())
        with _without_chain_warnings():
            original(self)

    Dataset._fill_nan = _fill_nan


@contextlib.contextmanager
def _agg_len_per_element():
    """Let ``Series.agg(len)`` give the length of each element, as it did before pandas 3."""
    import pandas as pd

    original = pd.Series.agg

    def agg(self, func=None, *args, **kwargs):
        return self.map(len) if func is len else original(self, func, *args, **kwargs)

    pd.Series.agg = agg
    try:
        yield
    finally:
        pd.Series.agg = original


def measure_sequences_one_by_one() -> None:
    """pandas 3: ``feat[field].agg(len)`` is the number of rows (dataset.py:712, 792, 809, 1217; kg_dataset.py:316;
    sequential_dataset.py:165). While these methods run, it has the old meaning. Remove it when RecBole uses ``map``."""
    dataset = importlib.import_module("recbole.data.dataset")
    for owner, name in (
        (dataset.Dataset, "_normalize"),
        (dataset.Dataset, "_discretization"),
        (dataset.Dataset, "_remap"),
        (dataset.KnowledgeBasedDataset, "_reset_ent_remapID"),
        (dataset.SequentialDataset, "_benchmark_presets"),
    ):
        setattr(owner, name, _within(_agg_len_per_element, getattr(owner, name)))


def hand_torch_writable_columns() -> None:
    """pandas 3: the arrays of a frame are read-only, and ``Dataset._dataframe_to_interaction`` (dataset.py:2199) creates
    tensors that share their memory: torch warns, and writing to them is undefined. Remove it when RecBole copies them."""
    import numpy as np
    from recbole.data.dataset import Dataset

    original = Dataset._dataframe_to_interaction

    @functools.wraps(original)
    def _dataframe_to_interaction(self, data):
        return original(self, {field: types.SimpleNamespace(values=np.array(data[field].values)) for field in data})

    Dataset._dataframe_to_interaction = _dataframe_to_interaction


def _within(context, function):
    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        with context():
            return function(*args, **kwargs)

    return wrapped


def restore_scipy_dok_update() -> None:
    """scipy 1.12 removed ``dok_matrix._update`` (lightgcn.py:111, ngcf.py:110, ncl, gcmc, spectralcf, kgin, mcclk).
    Remove it when RecBole builds the matrix from coordinates."""
    from scipy.sparse import dok_matrix

    if not hasattr(dok_matrix, "_update"):
        dok_matrix._update = lambda self, entries: self._dict.update(entries)


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
    _set_in(trainer, torch=_ModuleWith(torch, save=save, load=load))
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
        _set_in(module, torch=_ModuleWith(torch, load=load))
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
    _set_in(vectors, np=_ModuleWith(np, load=lambda file, **kwargs: np.load(file)))
    module = importlib.import_module("recbole.data.utils")
    _set_in(
        module, os=_ModuleWith(os, path=_ModuleWith(os.path, exists=lambda file: _unpickling_allowed and os.path.exists(file)))
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
        _replace_in_recbole(name, checked(getattr(module, name), option))


def _replace_in_recbole(name: str, function) -> None:
    """Replace RecBole's function ``name`` by ``function`` in all of RecBole's modules that have imported it."""
    original = inspect.unwrap(function)
    for module in [module for path, module in sys.modules.items() if path.split(".")[0] == "recbole"]:
        if vars(module).get(name) is original:
            setattr(module, name, function)


def report_plain_metrics() -> None:
    """numpy 2 prints the metrics of ``Evaluator.evaluate`` (evaluator.py:31) as ``np.float64(0.1)``; they are now
    converted to floats. Remove it when RecBole rounds to floats."""
    from recbole.evaluator import Evaluator

    original = Evaluator.evaluate

    @functools.wraps(original)
    def evaluate(self, dataobject):
        result = original(self, dataobject)
        result.update((name, float(value)) for name, value in result.items())
        return result

    Evaluator.evaluate = evaluate


def scale_gradients_without_warning() -> None:
    """torch 2.4 deprecates ``torch.cuda.amp.GradScaler`` (trainer.py:30, 235; autocast: 1453): a warning in every epoch,
    and later an error. Remove it when RecBole uses ``torch.amp``."""
    import torch

    module = importlib.import_module("recbole.trainer.trainer")
    _set_in(module, amp=types.SimpleNamespace(
        GradScaler=functools.partial(torch.amp.GradScaler, "cuda"), autocast=functools.partial(torch.autocast, "cuda")
    ))  # fmt: skip


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

    _set_in(importlib.import_module("recbole.config.configurator"), eval=literal)
    _set_in(importlib.import_module("recbole.trainer.hyper_tuning"), eval=literal)
    teachers = importlib.import_module("recbole.model.context_aware_recommender.kd_dagfm")
    _set_in(
        teachers, eval=lambda name: {kind.__name__: kind for kind in vars(teachers).values() if inspect.isclass(kind)}[name]
    )


def join_launched_processes() -> None:
    """``Config._init_device`` (configurator.py:496-515) supports several processes only with NCCL and CUDA, and only those that
    RecBole spawns; its assertion has no message if ``gpu_id`` lists too few GPUs. A process now joins the group of its
    launcher, torchrun included, and uses gloo without a GPU. ``local_rank`` becomes the rank over all machines, since RecBole
    prints, seeds and writes by it. Remove it when RecBole chooses the backend by device and reads the environment."""
    import torch
    from recbole.config import Config

    from recbole_macrec.errors import UserError
    from recbole_macrec.utils import distributed

    original = Config._init_device

    @functools.wraps(original)
    def _init_device(self):
        config, launch = self.final_config_dict, distributed.read_launch()
        config.pop("local_rank", None)
        if launch and "gpu_id" not in self.external_config_dict:
            config["gpu_id"] = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(launch.local_size))))
        original(self)
        if launch is None:
            named = str(self.external_config_dict.get("gpu_id", ""))
            # 0 is the default
            if named.strip() not in ("", "-1", "0") and torch.cuda.device_count() < len(config["gpu_id"].split(",")):
                raise UserError(
                    f"gpu_id is {config['gpu_id']!r}, but this machine does not have all of these GPUs; name others, or leave "
                    "gpu_id out. An empty gpu_id selects the CPU."
                )
            return
        device = config["device"]
        if device.type == "cuda":
            if torch.cuda.device_count() < launch.local_size:
                raise UserError(
                    f"gpu_id is {config['gpu_id']!r}, which is {torch.cuda.device_count()} GPUs for {launch.local_size} "
                    "processes on this machine; name a GPU for each, such as --gpu_id=0,1, or start fewer processes."
                )
            device = torch.device("cuda", launch.local_rank)
            torch.cuda.set_device(device)
        group = distributed.join(device.type)
        config.update(device=device, single_spec=False, local_rank=group.rank, world_size=group.size)
        if not group.first:
            config.update(state="error", show_progress=False, verbose=False, log_wandb=False)

    Config._init_device = _init_device


def wrap_on_own_device() -> None:
    """The trainer gives ``DistributedDataParallel`` the local rank as its device (trainer.py:62), which is wrong for a model on
    the CPU. It now gets the model's device. ``run_recbole`` ends the process group (quick_start.py:186), which may still be in
    use. Remove it when RecBole uses the model's device."""
    import torch

    from recbole_macrec.utils import distributed

    def wrapped(model, device_ids=None, **kwargs):
        device = next(iter(model.parameters())).device
        return torch.nn.parallel.DistributedDataParallel(model, device_ids=None if device.type == "cpu" else [device], **kwargs)

    _set_in(importlib.import_module("recbole.trainer.trainer"), DistributedDataParallel=wrapped)
    quick_start = importlib.import_module("recbole.quick_start.quick_start")
    _set_in(quick_start, dist=types.SimpleNamespace(destroy_process_group=distributed.leave))


def make_folders_together() -> None:
    """``ensure_dir`` (utils.py:52) fails if another process creates the folder between its check and its call. With several
    processes only the first one, the only one that writes, now creates folders. Remove it when RecBole passes ``exist_ok``."""
    from recbole_macrec.utils.distributed import current_group

    @functools.wraps(importlib.import_module("recbole.utils.utils").ensure_dir)
    def ensure_dir(dir_path):
        if current_group().first:
            os.makedirs(dir_path, exist_ok=True)

    _replace_in_recbole("ensure_dir", ensure_dir)


def name_files_of_each_run() -> None:
    """Checkpoints (trainer.py:132, 902-910) and logs (logger.py:83) have the time in seconds as name: two runs that start in
    the same second write the same files, and one reports the metrics of the other's weights. Each run now creates a new file;
    the TensorBoard folder has the log's name. A checkpoint that stays empty is removed with its trainer. With several processes
    only the first one writes logs. Remove it when RecBole's names are unique."""
    import logging

    from recbole_macrec.utils.distributed import current_group
    from recbole_macrec.utils.unique_names import remove_if_empty, unique_file

    def with_own_file(init):
        @functools.wraps(init)
        def naming_init(self, config, model):
            init(self, config, model)
            if config["single_spec"] or config["local_rank"] == 0:
                folder, name = os.path.split(self.saved_model_file)
                own = unique_file(self.saved_model_file)
                self.saved_model_file = os.path.join(folder, own.name)
                weakref.finalize(self, remove_if_empty, own.absolute())
                for temporary in {"temp_file", "temp_best_file"} & vars(self).keys():  # of the decision trees
                    setattr(self, temporary, getattr(self, temporary).replace(name[: -len(".pth")], own.stem))

        return naming_init

    class OwnFileHandler(logging.FileHandler):
        def __init__(self, filename):
            super().__init__(unique_file(filename) if current_group().first else os.devnull)

        def handleError(self, record):
            if not isinstance(sys.exc_info()[1], OSError):  # a full disk: the next file that the run writes raises a UserError
                super().handleError(record)

    trainer = importlib.import_module("recbole.trainer.trainer")
    for kind in (trainer.Trainer, trainer.DecisionTreeTrainer):
        kind.__init__ = with_own_file(kind.__init__)
    get_tensorboard = trainer.get_tensorboard
    _set_in(trainer, get_tensorboard=lambda logger: get_tensorboard(logger) if current_group().first else _NoTensorBoard())
    logger = importlib.import_module("recbole.utils.logger")
    _set_in(logger, logging=_ModuleWith(logging, FileHandler=OwnFileHandler))


class _NoTensorBoard:
    """A SummaryWriter that writes nothing."""

    def add_scalar(self, *args, **kwargs) -> None:
        pass

    add_hparams = flush = close = add_scalar


def share_checkpoint_of_first_process() -> None:
    """Each process names its checkpoint by its own clock (trainer.py:133), only the first one writes it, and all read it
    (trainer.py:583), perhaps before it is written, or on another machine without it. All now use the name of the first one,
    wait for each other at the end of training, and receive the content (see :func:`keep_checkpoints_free_of_pickles`). Remove
    it when RecBole does the same."""
    from recbole_macrec.utils.distributed import current_group

    module = importlib.import_module("recbole.trainer.trainer")
    init = module.Trainer.__init__

    @functools.wraps(init)
    def shared_init(self, config, model):
        init(self, config, model)
        self.saved_model_file = current_group().share(self.saved_model_file)

    def then_wait(train):
        @functools.wraps(train)
        def waiting(self, *args, **kwargs):
            result = train(self, *args, **kwargs)
            current_group().wait()
            return result

        return waiting

    module.Trainer.__init__ = shared_init
    module.Trainer.fit = then_wait(module.Trainer.fit)
    module.PretrainTrainer.pretrain = then_wait(module.PretrainTrainer.pretrain)


def evaluate_each_user_once() -> None:
    """On several processes RecBole pads the evaluation data with repeated users (abstract_dataloader.py:58), weights the
    processes by batches instead of users (trainer.py:612: ``len`` of a tuple) and averages rounded metrics. Ranking metrics are
    now computed from the data of all processes, with each user once, and so equal those of one process. Collectors of another
    class are not changed. Remove it when RecBole does the same."""
    from recbole.evaluator import Collector
    from recbole.utils import EvaluatorType

    from recbole_macrec.utils.distributed import gather_in_order

    trainer = importlib.import_module("recbole.trainer.trainer").Trainer
    evaluate, get_data_struct = trainer.evaluate, Collector.get_data_struct

    @functools.wraps(evaluate)
    def counted_evaluate(self, eval_data, *args, **kwargs):
        if eval_data:
            self.eval_collector.samples = eval_data.sample_size
        return evaluate(self, eval_data, *args, **kwargs)

    @functools.wraps(get_data_struct)
    def gathered_data_struct(self):
        struct = get_data_struct(self)
        ranking = self.config["eval_type"] == EvaluatorType.RANKING
        if ranking and not self.config["single_spec"] and type(self) is Collector:
            for key in [key for key in struct._data_dict if key.startswith("rec.")]:
                struct.set(key, gather_in_order(struct[key].to(self.config["device"]), self.samples).cpu())
        return struct

    trainer.evaluate, Collector.get_data_struct = counted_evaluate, gathered_data_struct


def train_without_anomaly_detection() -> None:
    """Importing RecBole's sequential models imports SINE, whose module turns on autograd's anomaly detection for the whole
    process (sine.py:25), which makes training several times slower. Remove it when SINE no longer does so."""
    import torch

    importlib.import_module("recbole.model.sequential_recommender.sine")  # a second import does nothing
    torch.autograd.set_detect_anomaly(False)


def order_by_exact_time() -> None:
    """RecBole converts times to float32 (dataset.py:2207) before it sorts by them (dataset.py:1829, sequential_dataset.py:100).
    Unix seconds are then rounded to multiples of 64 or 128 s, milliseconds to about two minutes, and interactions with equal
    times keep the order of the file. The interactions are now first sorted by their float64 times. RecBole's sorts are stable
    and rounding is monotonic, so this order stays. Random order, which shuffles the rows of the file, and benchmark files,
    which are not sorted, are unchanged. Remove it when RecBole sorts before it rounds."""
    import pandas as pd
    from recbole.data.dataset import Dataset

    original = Dataset._change_feat_format

    @functools.wraps(original)
    def _change_feat_format(self):
        feat, time, by_time = self.inter_feat, self.time_field, self.config["eval_args"]["order"] == "TO"
        if by_time and self.benchmark_filename_list is None and time in feat and pd.api.types.is_numeric_dtype(feat[time]):
            self.inter_feat = feat.sort_values(time, kind="stable", ignore_index=True)
        original(self)

    Dataset._change_feat_format = _change_feat_format


def count_training_interactions() -> None:
    """``Pop.calculate_loss`` (pop.py:46) counts an item at most once per batch, and counts sampled negatives, so that Pop
    depends on batch size and seed. The counts are now those of the training interactions. Remove it when RecBole does the
    same."""
    import torch
    from recbole.model.general_recommender import Pop

    init = Pop.__init__

    @functools.wraps(init)
    def counting_init(self, config, dataset):
        init(self, config, dataset)
        items = torch.as_tensor(dataset.inter_feat[self.ITEM_ID])
        self.item_cnt = torch.bincount(items, minlength=self.n_items).unsqueeze(1).to(self.device)
        self.max_cnt = self.item_cnt.max(dim=0).values

    def calculate_loss(self, interaction):
        return torch.zeros(1, device=self.device, requires_grad=True)

    Pop.__init__, Pop.calculate_loss = counting_init, calculate_loss


def validate_models_of_one_epoch() -> None:
    """``Trainer`` limits eval_step to the number of epochs (trainer.py:120), but ``TraditionalTrainer`` (Pop, EASE, ItemKNN)
    sets that number to 1 afterwards, so with a larger eval_step no checkpoint is written. The limit is now applied to it, too.
    Remove it when RecBole does the same."""
    trainer = importlib.import_module("recbole.trainer.trainer").TraditionalTrainer
    init = trainer.__init__

    @functools.wraps(init)
    def limiting_init(self, config, model):
        init(self, config, model)
        self.eval_step = min(self.eval_step, self.epochs)

    trainer.__init__ = limiting_init


def evaluate_without_dropout() -> None:
    """NGCF and GRU4RecKG of RecBole 1.2.0 create a dropout layer in every forward pass (ngcf.py:159, gru4reckg.py:82), which is
    in training mode even in evaluation. Its rate is now 0 in evaluation. Remove it with the support of 1.2.0."""
    from recbole.model.general_recommender import NGCF
    from recbole.model.sequential_recommender import GRU4RecKG

    def without_dropout(forward, rate):
        @functools.wraps(forward)
        def wrapped(self, *args, **kwargs):
            original = getattr(self, rate)
            setattr(self, rate, original if self.training else 0.0)
            try:
                return forward(self, *args, **kwargs)
            finally:
                setattr(self, rate, original)

        return wrapped

    NGCF.forward = without_dropout(NGCF.forward, "message_dropout")
    GRU4RecKG.forward = without_dropout(GRU4RecKG.forward, "dropout")


def collect_plain_values() -> None:
    """``Collector.get_data_struct`` (collector.py:225) moves all values to the CPU like tensors, also the number of items and
    the counters of the training data, so ItemCoverage, GiniIndex, AveragePopularity and TailPercentage fail in the first
    evaluation. Remove it when RecBole moves only tensors."""
    import torch
    from recbole.evaluator import Collector

    original = Collector.get_data_struct

    @functools.wraps(original)
    def get_data_struct(self):
        collected = self.data_struct._data_dict
        plain = {key: value for key, value in collected.items() if not isinstance(value, torch.Tensor)}
        self.data_struct._data_dict = {key: value for key, value in collected.items() if key not in plain}
        try:
            struct = original(self)
        finally:
            self.data_struct._data_dict.update(plain)
        for key, value in plain.items():
            struct.set(key, value)
        return struct

    Collector.get_data_struct = get_data_struct


def stop_where_the_loss_diverges() -> None:
    """``Trainer._check_nan`` (trainer.py:344) accepts an infinite loss, and its error for NaN names neither the epoch nor the
    last checkpoint. It now raises a UserError that does. Remove it when RecBole does the same."""
    import torch

    from recbole_macrec.errors import UserError

    def _check_nan(self, loss, name="training loss"):
        if torch.isfinite(loss).all():
            return
        epoch = max(self.train_loss_dict, default=self.start_epoch - 1) + 1
        file = self.saved_model_file
        written = os.path.isfile(file) and os.path.getsize(file) > 0
        raise UserError(
            f"The {name} became {loss.detach().sum().item()} in epoch {epoch} (learning_rate {self.learning_rate}); lower "
            f"learning_rate, or set clip_grad_norm. "
            f"{f'The last good checkpoint is {file}.' if written else 'No checkpoint was written.'}"
        )

    importlib.import_module("recbole.trainer.trainer").Trainer._check_nan = _check_nan


def measure_the_load_without_waiting() -> None:
    """At the end of every run RecBole waits for a second to measure the CPU load (utils.py:429). The load is now that since the
    previous measurement, or since psutil was imported. Remove it when RecBole does not wait."""
    import psutil

    @contextlib.contextmanager
    def without_waiting():
        measure = psutil.cpu_percent
        psutil.cpu_percent = lambda interval=None: measure()
        try:
            yield
        finally:
            psutil.cpu_percent = measure

    function = importlib.import_module("recbole.utils.utils").get_environment
    _replace_in_recbole("get_environment", _within(without_waiting, function))
