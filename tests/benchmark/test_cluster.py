"""``compare --ray``: runs on several machines, some of which fail, cannot access the folders or do not exist."""
import json
import re
import socket
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

import psutil
import pytest
from conftest import TINY

from recbole_macrec.benchmark.__main__ import main
from recbole_macrec.benchmark.compare import cluster, comparison as compare, worker
from recbole_macrec.benchmark.compare.run_files import write_json
from recbole_macrec.benchmark.compare.runs import Run

RUN = Path("runs", TINY, "GRU4Rec", "seed-2020")


class ThreadCluster:
    """A :class:`cluster.Cluster` that simulates several machines on this one; runs are executed in real processes.

    ``answers[name]`` replaces the submitted function on that machine.
    """

    def __init__(self, *names, **answers):
        self.names, self.answers, self.threads = names or ("here",), answers, ThreadPoolExecutor(2)

    def machines(self):
        return {name: f"machine {name}" for name in self.names}

    def submit(self, function, *arguments, machine=None):
        return self.threads.submit(self.answers.get(machine, function), *arguments)

    def wait(self, tasks, seconds):
        return list(wait(tasks, seconds, FIRST_COMPLETED).done)

    def result(self, task):
        try:
            return task.result()
        except Exception as error:
            raise cluster.TaskFailed(str(error)) from error


def argv(data_path: Path, output: str, *more: str) -> list[str]:
    return [
        "compare",
        "--models=GRU4Rec,Pop",
        f"--datasets={TINY}",
        f"--data_path={data_path}",
        f"--output={output}",
        "--epochs=4",
        "--state=ERROR",
        *more,
    ]


def outcome(folder: str) -> list:
    run = Run(Path(folder, RUN))
    curve = [(entry["epoch"], entry["loss"], entry["valid"]) for entry in run.curve]
    return [curve, run.ranks.ranks.tolist(), run.result["test_result"]]


@pytest.fixture
def kills(monkeypatch):
    """A list of epochs, in order; each time GRU4Rec's run is started, its process is killed after the next of them."""
    after: list[int] = []

    def start(folder, resources):
        process, share = worker.start(folder, resources)
        if folder.parts[-2] == "GRU4Rec" and after:
            threading.Thread(target=kill_after, args=(process, Run(folder), after.pop(0))).start()
        return process, share

    monkeypatch.setattr(cluster, "start", start)
    return after


def kill_after(process, run, epochs):
    while len(run.curve) < epochs:
        time.sleep(0.005)
    process.kill()


def test_a_killed_run_is_restarted_once_and_does_not_affect_others(tiny_dataset, kills, monkeypatch, capsys):
    assert main(argv(tiny_dataset, "whole")) == 0
    monkeypatch.setattr(compare, "RayCluster", lambda address, threads: ThreadCluster("one", "two"))
    kills[:] = [2]
    assert main(argv(tiny_dataset, "once", "--ray=there")) == 0
    printed = capsys.readouterr()
    assert (
        "GRU4Rec on tiny, seed 2020: its process ended with exit code -9" in printed.out and "starting it again" in printed.out
    )
    assert outcome("once") == outcome("whole")
    kills[:] = [2, 3]
    assert main(argv(tiny_dataset, "twice", "--ray=there")) == 1
    failure = json.loads(Path("twice", RUN, "failure.json").read_text())["error"]
    assert "ended unexpectedly" in failure and "exit code -9" in failure and failure.count("\n") == 0
    assert Run(Path("twice/runs/tiny/Pop/seed-2020")).finished
    assert not list(Path.cwd().rglob(".shared*"))


def test_a_run_with_an_error_is_not_restarted(tiny_dataset, monkeypatch, capsys):
    monkeypatch.setattr(compare, "RayCluster", lambda address, threads: ThreadCluster())
    assert main(argv(tiny_dataset, "out", "--ray=there", "--learning_rate=1e30")) == 1
    assert "starting it again" not in capsys.readouterr().out
    assert Run(Path("out/runs/tiny/Pop/seed-2020")).finished


def other_file_system(paths, root):
    """Answer of a machine without the shared file system: it has other files at the same paths."""
    return cluster.inaccessible_paths([root / path.relative_to("/") for path in paths])


def without_package(paths):
    raise ModuleNotFoundError("No module named 'recbole_macrec'")


@pytest.mark.parametrize("answer, expected", [
    (other_file_system, "cannot read or write .*, but this machine can"),
    (without_package, "can't execute runs .No module named 'recbole_macrec'."),
    (None, "has not answered within 0.3 s"),
])  # fmt: skip
def test_unusable_machine_is_reported_before_the_first_run(answer, expected, tiny_dataset, tmp_path, monkeypatch, capsys):
    release = threading.Event()
    answers = {other_file_system: partial(other_file_system, root=tmp_path / "other"), None: lambda paths: release.wait()}
    if answer is None:
        monkeypatch.setattr(cluster, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(
        compare, "RayCluster", lambda address, threads: ThreadCluster("one", "two", two=answers.get(answer, answer))
    )
    assert main(argv(tiny_dataset, "out", "--ray=there")) == 1
    release.set()
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: Machine machine two") and re.search(expected, error) and not Run(Path("out", RUN)).curve


def test_progress_within_a_run(tmp_path):
    run = Run(tmp_path)
    assert run.fraction_complete == 0
    write_json({"epochs": 2.5, "of": 10}, tmp_path / "progress.json")
    assert run.fraction_complete == 0.25 and run.progress == "2.5 of 10 epochs"
    (tmp_path / "progress.json").unlink()
    write_json({}, tmp_path / "result.json")
    assert run.fraction_complete == 1


def test_address_without_server_is_a_one_line_error(tiny_dataset, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    assert main(argv(tiny_dataset, "out", f"--ray={address}")) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: --ray={address}: no connection (") and error.count("\n") == 1


# -- with a real Ray ---------------------------------------------------------------------------------------------------


@pytest.fixture
def ray():
    ray = pytest.importorskip("ray", reason="Ray can't be imported; install it with: pip install -e '.[ray,test]'")
    yield ray
    ray.shutdown()


def test_address_without_ray_is_a_one_line_error(ray, tiny_dataset, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        assert main(argv(tiny_dataset, "out", f"--ray={address}")) == 1
    error = capsys.readouterr().err
    assert f"error: --ray={address}: there is no Ray cluster" in error and error.count("\n") == 1


def test_killed_ray_worker_is_restarted(ray, tiny_dataset, capsys):
    """Two Ray nodes on this machine simulate two machines. Ray's worker process is killed, not the process of the run."""
    from ray.cluster_utils import Cluster

    assert main(argv(tiny_dataset, "whole")) == 0
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        nodes.add_node(num_cpus=1)
        killed = []

        def kill():
            while len(Run(Path("out", RUN).absolute()).curve) < 2:
                time.sleep(0.01)
            for process in psutil.process_iter(["cmdline"]):
                if (process.info["cmdline"] or [""])[0].startswith("ray::_on_own_gpu"):
                    process.kill()
                    killed.append(process.pid)

        killer = threading.Thread(target=kill)
        killer.start()
        assert main(argv(tiny_dataset, "out", f"--ray={nodes.address}")) == 0
        killer.join()
    finally:
        ray.shutdown()
        nodes.shutdown()
    assert killed and "starting it again" in capsys.readouterr().out
    assert outcome("out") == outcome("whole")
