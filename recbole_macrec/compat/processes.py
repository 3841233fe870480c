"""Repairs of RecBole for several processes that train one model, and for runs that start at the same time."""
import functools
import importlib
import os
import sys
import types
import weakref

from recbole_macrec.compat.patching import ModuleWith, replace_in_recbole, set_in

VISIBLE = "CUDA_VISIBLE_DEVICES"


def join_launched_processes() -> None:
    """``Config._init_device`` (configurator.py:496-515) supports several processes only with NCCL and CUDA, and only those that
    RecBole spawns; its assertion has no message if ``gpu_id`` lists too few GPUs. A process now joins the group of its
    launcher, torchrun included, and uses gloo without a GPU. ``local_rank`` becomes the rank over all machines, since RecBole
    prints, seeds and writes by it. RecBole also sets CUDA_VISIBLE_DEVICES to ``gpu_id``, by default to 0, which overrides the
    choice of the user and hides the other GPUs from runs that are started later; it is now only set for a ``gpu_id`` that is
    given, until the next Config. Remove it when RecBole chooses the backend by device and reads the environment."""
    import torch
    from recbole.config import Config

    from recbole_macrec.errors import UserError
    from recbole_macrec.utils import distributed

    original = Config._init_device
    chosen: list[tuple[str, str | None]] = []  # what the last Config with a gpu_id set, and the value before

    @functools.wraps(original)
    def _init_device(self):
        config, launch = self.final_config_dict, distributed.read_launch()
        config.pop("local_rank", None)
        if chosen and os.environ.get(VISIBLE) == chosen[-1][0]:
            _set_variable(VISIBLE, chosen.pop()[1])
        given, visible = "gpu_id" in self.external_config_dict, os.environ.get(VISIBLE)
        if isinstance(config["gpu_id"], list | tuple):
            config["gpu_id"] = ",".join(map(str, config["gpu_id"]))
        if not given and visible is not None:
            config["gpu_id"] = visible
        elif not given and launch:
            config["gpu_id"] = ",".join(map(str, range(launch.local_size)))
        original(self)
        named = str(config["gpu_id"]).strip()
        # 0 is the default
        if given and named not in ("", "-1", "0") and torch.cuda.device_count() < len(named.split(",")):
            raise UserError(
                f"gpu_id is {config['gpu_id']!r}, but this machine does not have all of these GPUs; name others, or leave "
                "gpu_id out. An empty gpu_id selects the CPU."
            )
        if given:
            chosen[:] = [(os.environ[VISIBLE], visible)]
        else:
            _set_variable(VISIBLE, visible)
        if launch is None:
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


def _set_variable(name: str, value: str | None) -> None:
    """Set the environment variable ``name``, or remove it if ``value`` is None."""
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


def wrap_on_own_device() -> None:
    """The trainer gives ``DistributedDataParallel`` the local rank as its device (trainer.py:62), which is wrong for a model on
    the CPU. It now gets the model's device. ``run_recbole`` ends the process group (quick_start.py:186), which may still be in
    use. Remove it when RecBole uses the model's device."""
    import torch

    from recbole_macrec.utils import distributed

    def wrapped(model, device_ids=None, **kwargs):
        device = next(iter(model.parameters())).device
        return torch.nn.parallel.DistributedDataParallel(model, device_ids=None if device.type == "cpu" else [device], **kwargs)

    set_in(importlib.import_module("recbole.trainer.trainer"), DistributedDataParallel=wrapped)
    quick_start = importlib.import_module("recbole.quick_start.quick_start")
    set_in(quick_start, dist=types.SimpleNamespace(destroy_process_group=distributed.leave))


def make_folders_together() -> None:
    """``ensure_dir`` (utils.py:52) fails if another process creates the folder between its check and its call. With several
    processes only the first one, the only one that writes, now creates folders. Remove it when RecBole passes ``exist_ok``."""
    from recbole_macrec.utils.distributed import current_group

    @functools.wraps(importlib.import_module("recbole.utils.utils").ensure_dir)
    def ensure_dir(dir_path):
        if current_group().first:
            os.makedirs(dir_path, exist_ok=True)

    replace_in_recbole("ensure_dir", ensure_dir)


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
    set_in(trainer, get_tensorboard=lambda logger: get_tensorboard(logger) if current_group().first else _NoTensorBoard())
    logger = importlib.import_module("recbole.utils.logger")
    set_in(logger, logging=ModuleWith(logging, FileHandler=OwnFileHandler))


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

    from recbole_macrec.utils.distributed_tensors import gather_in_order

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
