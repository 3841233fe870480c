"""Repairs of RecBole for current versions of numpy, pandas, scipy, torch and ray."""
import contextlib
import functools
import importlib
import inspect
import sys
import types
import warnings

from recbole_macrec.compat.patching import ModuleWith, set_in, within
from recbole_macrec.data.quoting import quoting


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
    set_in(ray, tune=tune)
    sys.modules.update({"ray": ray, "ray.tune": tune})
    try:
        quick_start = importlib.import_module("recbole.quick_start.quick_start")
    finally:
        for name, module in hidden.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    set_in(quick_start, tune=types.SimpleNamespace(report=_report_to_ray))


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
def without_chain_warnings():
    """Silence the warnings of pandas about chained assignments: pandas 3 that they have no effect, pandas 2 that they will have
    none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A value is (being|trying to be) set on a copy")
        yield


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

    set_in(module, pd=ModuleWith(pandas, read_csv=read_csv))
    module.Dataset._load_feat = within(without_chain_warnings, module.Dataset._load_feat)


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
        with without_chain_warnings():
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
        setattr(owner, name, within(_agg_len_per_element, getattr(owner, name)))


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


def restore_scipy_dok_update() -> None:
    """scipy 1.12 removed ``dok_matrix._update`` (lightgcn.py:111, ngcf.py:110, ncl, gcmc, spectralcf, kgin, mcclk).
    Remove it when RecBole builds the matrix from coordinates."""
    from scipy.sparse import dok_matrix

    if not hasattr(dok_matrix, "_update"):
        dok_matrix._update = lambda self, entries: self._dict.update(entries)


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
    set_in(module, amp=types.SimpleNamespace(
        GradScaler=functools.partial(torch.amp.GradScaler, "cuda"), autocast=functools.partial(torch.autocast, "cuda")
    ))  # fmt: skip
