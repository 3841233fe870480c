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
from recbole_macrec.compat.libraries import (
    fill_missing_features,
    hand_torch_writable_columns,
    import_without_ray,
    measure_sequences_one_by_one,
    read_missing_sequences_as_empty,
    report_plain_metrics,
    restore_numpy_names,
    restore_scipy_dok_update,
    scale_gradients_without_warning,
)
from recbole_macrec.compat.processes import (
    evaluate_each_user_once,
    join_launched_processes,
    make_folders_together,
    name_files_of_each_run,
    share_checkpoint_of_first_process,
    wrap_on_own_device,
)
from recbole_macrec.compat.results import (
    add_gradients_in_one_order,
    check_the_valid_metric_before_training,
    collect_plain_values,
    count_training_interactions,
    evaluate_without_dropout,
    measure_the_load_without_waiting,
    order_by_exact_time,
    stop_where_the_loss_diverges,
    train_with_saved_dataloaders,
    train_without_anomaly_detection,
    validate_models_of_one_epoch,
)
from recbole_macrec.compat.untrusted import (
    keep_checkpoints_free_of_pickles,
    loading,
    read_texts_as_literals,
    unpickle_datasets_on_trust,
)

__all__ = ["REPAIRS", "apply", "loading"]

REPAIRS = (  # in the order of application: some wrap a method that an earlier one has replaced
    restore_numpy_names,
    import_without_ray,
    read_missing_sequences_as_empty,
    fill_missing_features,
    measure_sequences_one_by_one,
    hand_torch_writable_columns,
    restore_scipy_dok_update,
    keep_checkpoints_free_of_pickles,
    unpickle_datasets_on_trust,
    report_plain_metrics,
    scale_gradients_without_warning,
    read_texts_as_literals,
    join_launched_processes,
    wrap_on_own_device,
    make_folders_together,
    name_files_of_each_run,
    share_checkpoint_of_first_process,
    evaluate_each_user_once,
    train_with_saved_dataloaders,
    train_without_anomaly_detection,
    add_gradients_in_one_order,
    order_by_exact_time,
    count_training_interactions,
    validate_models_of_one_epoch,
    evaluate_without_dropout,
    collect_plain_values,
    check_the_valid_metric_before_training,
    stop_where_the_loss_diverges,
    measure_the_load_without_waiting,
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
