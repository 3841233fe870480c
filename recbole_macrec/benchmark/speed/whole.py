"""Time of each stage of a whole run of MACRec, and its training throughput relative to that of matrix products."""

import torch
from recbole.quick_start import load_data_and_model
from torch.utils.flop_counter import FlopCounterMode

from recbole_macrec.benchmark.compare.run_model import Request, run_model
from recbole_macrec.benchmark.speed.measure import Subject, median_seconds
from recbole_macrec.benchmark.speed.train import first_batches
from recbole_macrec.utils.hardware import has_fast_bf16


def whole(args) -> dict:
    """Return seconds of each stage, and targets/s and TFLOP/s of training and of large matrix products."""
    settings = {"data_path": args.data_path, "epochs": args.epochs}
    settings |= {"eval_step": args.epochs, "show_progress": False, "state": "WARNING"}
    if args.modalities:
        settings["modalities"] = args.modalities
    record = run_model("MACRec", Request(args.dataset, settings=settings))
    config, model, _, train_data, _, test_data = load_data_and_model(record["checkpoint"])
    (batch,) = first_batches(Subject(config, model, train_data, test_data), 1)
    epoch = record["epoch_seconds"][-1]  # the first epoch includes warm-up
    targets = len(train_data._dataset)
    users = test_data._dataset
    achieved = targets / epoch * flop_per_target(model, batch) / 1e12
    rate = matrix_rate(model.device)
    model.eval()
    ranks_exactly = model.with_ranking(decode="exact")
    exact_users = users[slice(args.exact_users or len(users))].to(model.device)
    exact_seconds = median_seconds(lambda: ranks_exactly.rank(exact_users), repeats=1, warmup=0)
    return {
        "seconds": record["seconds"],
        "seconds_per_epoch": round(epoch, 2),
        "targets_per_s": round(targets / epoch, 1),
        "tflop_per_s": round(achieved, 4),
        "matrix_tflop_per_s": round(rate, 4),
        "share_of_matrix_rate": round(achieved / rate, 4),
        "test_users_per_s": round(len(users) / record["seconds"]["test"], 1),
        "exact_users_per_s": round(len(exact_users) / exact_seconds, 3),
        "exact_seconds_for_all_users": round(exact_seconds * len(users) / len(exact_users), 1),
        "test_result": record["test_result"],
    }


def flop_per_target(model, batch) -> float:
    """Return the floating-point operations per target of a batch of users, with all tasks and the backward pass."""
    model.train()
    with FlopCounterMode(display=False) as counter:
        model.calculate_loss(batch).backward()
    model.zero_grad()
    return counter.get_total_flops() / len(model.windows(batch).target_items())


def matrix_rate(device: torch.device) -> float:
    """Return TFLOP/s of a large matrix product in the precision of ``precision: auto``."""
    size = 4096 if device.type == "cuda" else 2048
    dtype = torch.bfloat16 if has_fast_bf16(device) else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def multiply():
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return 2 * size**3 / median_seconds(multiply, repeats=3) / 1e12
