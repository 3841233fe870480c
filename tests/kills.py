"""Kill commands at random moments and check that they give the result of an uninterrupted run when they are started again.

    python tests/kills.py [--kills=30] [--seed=0] [--only=compare,import]

Not part of the test suite, as it takes many minutes. Each command first runs without interruption. Then it is killed (SIGKILL)
at a random moment between its first output and its usual end, started again, and killed again; after every second kill it runs
to the end. Its results are compared with those of the uninterrupted run, byte by byte or number by number, and no incomplete
file and no process may be left. The target is random as well: the process of the command, all its processes, or one of its
child processes.
"""
import argparse
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import torch
from conftest import TINY, write_tiny_dataset
from helpers import as_words, write_features
from raw_shop import CATEGORY, write_2018
from small_models import SMALL
from web_server import Server, image_bytes

from recbole_macrec.benchmark.compare.runs import open_comparison

ROOT = Path(__file__).resolve().parent.parent
KILLS_BEFORE_END = 2
PATIENCE = 600  # seconds for a command to end, and for orphaned processes to end
ORPHANS = 30
TARGETS = ("command", "all", "child")


@dataclass
class Command:
    """A command to kill.

    Attributes:
        words: returns the command line; called before each start, to find a free port.
        result: reads the results to compare from the folder in which the command ran.
        prepare: writes the input files of the command to that folder.
    """

    words: Callable[[], list[str]]
    result: Callable[[Path], object]
    prepare: Callable[[Path], None]
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TARGETS, 0))
    moments: list[float] = field(default_factory=list)
    ends: int = 0
    problems: list[str] = field(default_factory=list)


# -- the commands ------------------------------------------------------------------------------------------------------


def tiny_dataset(folder: Path) -> None:
    write_tiny_dataset(folder / "data")
    write_features(folder / "data" / TINY, "text", "image")


def options(**more) -> list[str]:
    return as_words({**SMALL, "epochs": 12, "semantic_id_seed": 1, "data_path": "data", **more})


def single_words(*more: str) -> list[str]:
    return [
        str(ROOT / "run_recbole_macrec.py"),
        "--model=MACRec",
        f"--dataset={TINY}",
        "--result_file=r.json",
        *options(),
        *more,
    ]


def single_result(folder: Path) -> object:
    record = json.loads((folder / "r.json").read_text())
    weights = torch.load(folder / record["checkpoint"], weights_only=True)["state_dict"]
    figures = [record[name] for name in ("test_result", "best_valid_result", "test_detail", "epochs", "semantic_ids")]
    return [figures, {name: weight.tolist() for name, weight in weights.items()}]


def two_process_words() -> list[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return single_words("--nproc=2", f"--port={free.getsockname()[1]}")


def compare_words() -> list[str]:
    return ["-m", "recbole_macrec.benchmark", "compare", "--models=TIGER,GRU4Rec", f"--datasets={TINY}", "--output=out",
            *options(modalities="['text']", max_modalities=1)]


def compare_result(folder: Path) -> object:
    runs = open_comparison(folder / "out").runs
    curves = [[{name: value for name, value in entry.items() if "seconds" not in name} for entry in run.curve] for run in runs]
    return [curves, [run.ranks.ranks.tolist() for run in runs], [run.result["test_result"] for run in runs]]


def files_of(folder: Path) -> dict[str, bytes]:
    """Read all files except locks and files with timestamps."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix != ".lock" and "seen" not in path.name}


def prepare_command(server: Server, folder: Path) -> Command:
    """Command that downloads raw files and images from a local server, filters and encodes."""
    raw = write_2018(folder / "raw", images_at=server.url("").rstrip("/"))
    names = [f"{CATEGORY}.csv", f"meta_{CATEGORY}.json.gz"]
    server.files |= {name: (raw / name).read_bytes() for name in names}
    for item in range(45):
        for name in (f"B{item:04d}-0.jpg", f"B{item:04d}-1.jpg", f"B{item:04d}-again.jpg"):
            server.files[name] = image_bytes(size=(20, 15), seed=item)
            server.slow[name] = 0.05
    settings = {"source": {"category": CATEGORY, "files": {name: server.url(name) for name in names}},
                "encoders": {"text": "tfidf", "image": "pixels"}, "modalities": ["text", "image"], "missing_texts": "mean"}
    words = ["-m", "recbole_macrec.data", "prepare", "shop", "--data_path=out", "--config_files=shop.yaml"]
    return Command(lambda: words, lambda at: files_of(at / "out"), lambda at: write(at / "shop.yaml", json.dumps(settings)))


def write(path: Path, text: str) -> None:
    path.write_text(text)


def interactions(folder: Path) -> None:
    """Write a CSV table and features that are large enough for a slow import."""
    rng = np.random.default_rng(0)
    lines = (f"u{user},{item},{time}" for time, (user, item) in enumerate(rng.integers(20_000, size=(400_000, 2))))
    (folder / "table").mkdir()
    write(folder / "table/interactions.csv", "user,item,timestamp\n" + "\n".join(lines) + "\n")
    np.save(folder / "table/visual.npy", rng.standard_normal((20_000, 256), dtype=np.float32))


def import_words() -> list[str]:
    return ["-m", "recbole_macrec.data", "import", "table", "--dataset=Shop", "--data_path=out", "--overwrite"]


# -- killing -----------------------------------------------------------------------------------------------------------


def start(words: list[str], folder: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open(folder / "log.txt", "a") as log:
        return subprocess.Popen(
            [sys.executable, *words], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )


def members(session: int) -> list[psutil.Process]:
    """Return the processes of a command's session."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def run_to_the_end(command: Command, folder: Path) -> tuple[float, float]:
    """Run to the end; return the seconds until the first new file and the total seconds."""
    before, begin = set(folder.rglob("*")) | {folder / "log.txt"}, time.monotonic()
    process, first = start(command.words(), folder), None
    while process.poll() is None:
        if first is None and set(folder.rglob("*")) - before:
            first = time.monotonic() - begin
        time.sleep(0.05)
    if process.returncode:
        sys.exit(f"the command fails without any kill:\n{(folder / 'log.txt').read_text()[-2000:]}")
    return first, time.monotonic() - begin


def kill_once(command: Command, folder: Path, moment: float, target: str) -> bool:
    """Start the command and kill ``target`` after ``moment`` seconds; return whether it was still running."""
    process = start(command.words(), folder)
    with suppress(subprocess.TimeoutExpired):
        process.wait(moment)
        check_ended(command, process, folder)
        return False
    others = [member for member in members(process.pid) if member.pid != process.pid]
    if target == "all":
        os.killpg(process.pid, signal.SIGKILL)
    elif target == "child" and others:
        with suppress(psutil.NoSuchProcess):
            random.choice(others).kill()
    else:
        target = "command"
        process.kill()
    command.kills[target] += 1
    command.moments.append(moment)
    with suppress(subprocess.TimeoutExpired):
        process.wait(PATIENCE)
    end = time.monotonic() + ORPHANS
    while (left := members(process.pid)) and time.monotonic() < end:
        time.sleep(0.1)
    if left:
        command.problems.append(f"{len(left)} processes left {ORPHANS} s after the kill of '{target}' at {moment:.1f} s")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return process.returncode != 0


def check_ended(command: Command, process: subprocess.Popen, folder: Path) -> None:
    if process.returncode:
        tail = (folder / "log.txt").read_text().strip().splitlines()[-1:]
        command.problems.append(f"given again it ended with exit code {process.returncode}: {tail}")


def check_result(command: Command, folder: Path, expected: object) -> None:
    command.ends += 1
    try:
        equal = command.result(folder) == expected
    except Exception as error:  # any missing or damaged result
        equal, expected = False, error
        command.problems.append(f"no result: {type(error).__name__}: {error}")
    else:
        if not equal:
            command.problems.append(f"end {command.ends} differs from the uninterrupted run, see {folder}")
    strays = [
        str(path.relative_to(folder)) for path in folder.rglob(".*") if re.fullmatch(r"\..+\.(\d+|new-\w+|old)", path.name)
    ]
    if strays:
        command.problems.append(f"half-written files left: {strays[:3]}")
    if equal and not strays:
        shutil.rmtree(folder)


def kill_repeatedly(name: str, command: Command, kills: int, work: Path) -> None:
    whole = work / f"{name}-whole"
    whole.mkdir()
    command.prepare(whole)
    first, seconds = run_to_the_end(command, whole)
    expected = command.result(whole)
    print(f"{name}: uninterrupted in {seconds:.1f} s, first file after {first:.1f} s", flush=True)
    while sum(command.kills.values()) < kills:
        folder = work / f"{name}-{command.ends}"
        folder.mkdir()
        command.prepare(folder)
        ended = False
        for _ in range(min(KILLS_BEFORE_END, kills - sum(command.kills.values()))):
            ended = not kill_once(command, folder, random.uniform(first, seconds), random.choice(TARGETS))
            if ended:
                break
        if not ended:
            process = start(command.words(), folder)
            process.wait(PATIENCE)
            check_ended(command, process, folder)
        check_result(command, folder, expected)
    moments = f"{min(command.moments):.1f} to {max(command.moments):.1f} s"
    killed = ", ".join(f"{target} {count}" for target, count in command.kills.items())
    verdict = "all equal" if not command.problems else "; ".join(command.problems)
    print(f"{name}: {sum(command.kills.values())} kills at {moments} ({killed}), {command.ends} ends: {verdict}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="of all commands together (default: 30)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="such as single,compare (default: all)")
    args = parser.parse_args()
    random.seed(args.seed)
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    work = Path(tempfile.mkdtemp(prefix="kills-"))
    commands = {
        "single": Command(single_words, single_result, tiny_dataset),
        "two processes": Command(two_process_words, single_result, tiny_dataset),
        "compare": Command(compare_words, compare_result, tiny_dataset),
        "prepare": prepare_command(server, work),
        "import": Command(import_words, lambda at: files_of(at / "out"), interactions),
    }
    names = args.only.split(",") if args.only else list(commands)
    for number, name in enumerate(names):
        share = args.kills * (number + 1) // len(names) - args.kills * number // len(names)
        kill_repeatedly(name, commands[name], share, work)
    failed = any(command.problems for command in commands.values())
    if not failed:
        shutil.rmtree(work)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
