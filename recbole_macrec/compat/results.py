"""Repairs of RecBole where training or evaluation gives wrong results, fails, or takes needless time."""
import contextlib
import functools
import importlib
import os
from typing import Any

from recbole_macrec.compat.patching import replace_in_recbole, within


def train_without_anomaly_detection() -> None:
    """Importing RecBole's sequential models imports SINE, whose module turns on autograd's anomaly detection for the whole
    process (sine.py:25), which makes training several times slower. Remove it when SINE no longer does so."""
    import torch

    importlib.import_module("recbole.model.sequential_recommender.sine")  # a second import does nothing
    torch.autograd.set_detect_anomaly(False)


def add_gradients_in_one_order() -> None:
    """The gradient of ``table[index]``, as in LightGCN and NGCF (lightgcn.py:195, ngcf.py:184), adds those of equal rows in the
    order in which CPU threads reach them. With several threads every training with the same seed therefore ends differently.
    With ``reproducibility: True`` an epoch on a CPU now runs with torch's deterministic algorithms, which fix the order. Remove
    it when RecBole uses them."""
    trainer = importlib.import_module("recbole.trainer.trainer").Trainer
    original = trainer._train_epoch

    @functools.wraps(original)
    def _train_epoch(self, *args, **kwargs):
        if not self.config["reproducibility"] or self.device.type != "cpu":
            return original(self, *args, **kwargs)
        with _deterministic_algorithms():
            return original(self, *args, **kwargs)

    trainer._train_epoch = _train_epoch


@contextlib.contextmanager
def _deterministic_algorithms():
    """Run torch's deterministic algorithms, and warn of an operation that has none. New tensors are not filled with NaN."""
    import torch

    new_tensors: Any = importlib.import_module("torch.utils.deterministic")
    fill = new_tensors.fill_uninitialized_memory
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    new_tensors.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        new_tensors.fill_uninitialized_memory = fill


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


def cut_histories_of_benchmark_files() -> None:
    """``SequentialDataset._benchmark_presets`` (sequential_dataset.py:164) keeps histories of benchmark files that are longer
    than MAX_ITEM_LIST_LENGTH: SASRec and BERT4Rec then fail with IndexError, and GRU4Rec reads more items than other models. It
    also fails with AttributeError unless the item column is called item_id, and models fail with empty histories. Histories now
    keep their newest items, whatever ITEM_ID_FIELD is, and an empty one is a UserError. Remove it when RecBole does so."""
    from recbole.data.dataset import SequentialDataset

    from recbole_macrec.data.interactions import history_column
    from recbole_macrec.errors import UserError

    original = SequentialDataset._benchmark_presets

    @functools.wraps(original)
    def _benchmark_presets(self):
        histories, newest = history_column(self.config), self.config["MAX_ITEM_LIST_LENGTH"]
        empty = self.inter_feat[histories].map(len) == 0
        if empty.any():
            user = self.id2token(self.uid_field, int(self.inter_feat[self.uid_field][empty].iloc[0]))
            raise UserError(f"{self.dataset_name}: a row of user {user} has no item in {histories}; remove such rows.")
        self.item_id_list_field = histories
        self.inter_feat[histories] = [items[-newest:] for items in self.inter_feat[histories]]
        self.field2seqlen[histories] = newest
        original(self)

    SequentialDataset._benchmark_presets = _benchmark_presets


def remove_duplicates_in_file_order() -> None:
    """``Dataset._remove_duplication`` (dataset.py:838) sorts by time with an unstable sort, so that with ``rm_dup_inter``
    interactions with equal times, which are common if times are dates, are shuffled. They now keep the order of the file.
    Remove it when RecBole's sort is stable."""
    from recbole.data.dataset import Dataset

    original = Dataset._remove_duplication

    @functools.wraps(original)
    def _remove_duplication(self):
        keep = self.config["rm_dup_inter"]
        if keep is None or self.time_field not in self.inter_feat:
            return original(self)
        in_order = self.inter_feat.sort_values(self.time_field, kind="stable", ignore_index=True)
        self.inter_feat = in_order.drop_duplicates([self.uid_field, self.iid_field], keep=keep)

    Dataset._remove_duplication = _remove_duplication


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


def train_with_saved_dataloaders() -> None:
    """``save_split_dataloaders`` (data/utils.py:93) sets the random generators of the data loaders to None to pickle them. The
    run then continues without generators: it shuffles whatever the seed is, and fails where it stores their states. They are
    now put back. Remove it when RecBole does the same."""
    function = importlib.import_module("recbole.data.utils").save_split_dataloaders

    @functools.wraps(function)
    def save_split_dataloaders(config, dataloaders):
        parts = [part for loader in dataloaders for part in (loader, loader.sampler)]
        generators = [vars(part).get("generator") for part in parts]
        try:
            function(config, dataloaders)
        finally:
            for part, generator in zip(parts, generators):
                part.generator = generator

    replace_in_recbole("save_split_dataloaders", save_split_dataloaders)


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


def check_the_valid_metric_before_training() -> None:
    """With a ``valid_metric`` that ``metrics`` and ``topk`` do not measure, such as the default MRR@10 and ``topk: 5``, a run
    ends after its first epoch with KeyError: 'mrr@10' (utils.py:168). It now ends before the training with a UserError. Remove
    it when RecBole checks the option."""
    trainer = importlib.import_module("recbole.trainer.trainer").Trainer
    fit = trainer.fit

    @functools.wraps(fit)
    def checked_fit(self, train_data, valid_data=None, *args, **kwargs):
        from recbole_macrec.config.validation import check_valid_metric

        if valid_data:
            check_valid_metric(self.config)
        return fit(self, train_data, valid_data, *args, **kwargs)

    trainer.fit = checked_fit


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
    replace_in_recbole("get_environment", within(without_waiting, function))
