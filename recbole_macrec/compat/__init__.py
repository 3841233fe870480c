"""Repairs of RecBole 1.2.0 and 1.2.1; all of them are in this package.

| module | repairs |
|---|---|
| libraries.py | for current versions of numpy, pandas, scipy, torch and ray |
| untrusted.py | of files and options that can run any code |
| processes.py | for several processes that train one model, and for runs that start at the same time |
| results.py | of wrong results, failures and needless waiting |
| patching.py | no repairs: the functions that they use to replace names in RecBole's modules |

Each function is one repair. Its docstring names the problem, its place (lines of 1.2.1), and when the repair can be removed.
:func:`apply` runs all repairs once. If a library behaves as RecBole expects, a repair changes nothing.
"""
from recbole_macrec.compat import libraries, processes, results, untrusted
from recbole_macrec.compat.untrusted import loading

__all__ = ["REPAIRS", "apply", "loading"]

REPAIRS = (  # in the order of application: some wrap a method that an earlier one has replaced
    libraries.restore_numpy_names,
    libraries.import_without_ray,
    libraries.read_missing_sequences_as_empty,
    libraries.fill_missing_features,
    libraries.measure_sequences_one_by_one,
    libraries.hand_torch_writable_columns,
    libraries.restore_scipy_dok_update,
    untrusted.keep_checkpoints_free_of_pickles,
    untrusted.unpickle_datasets_on_trust,
    libraries.report_plain_metrics,
    libraries.scale_gradients_without_warning,
    untrusted.read_texts_as_literals,
    processes.join_launched_processes,
    processes.wrap_on_own_device,
    processes.make_folders_together,
    processes.name_files_of_each_run,
    processes.share_checkpoint_of_first_process,
    processes.evaluate_each_user_once,
    results.train_with_saved_dataloaders,
    results.train_without_anomaly_detection,
    results.add_gradients_in_one_order,
    results.order_by_exact_time,
    results.cut_histories_of_benchmark_files,
    results.remove_duplicates_in_file_order,
    results.count_training_interactions,
    results.validate_models_of_one_epoch,
    results.evaluate_without_dropout,
    results.collect_plain_values,
    results.check_the_valid_metric_before_training,
    results.stop_where_the_loss_diverges,
    results.measure_the_load_without_waiting,
)

_applied = False


def apply() -> None:
    """Apply every repair. Repeated calls do nothing."""
    global _applied
    if _applied:
        return
    _applied = True
    for repair in REPAIRS:
        repair()
