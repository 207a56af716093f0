"""Screening on Ray: several nodes in processes of their own, one of which is killed while it works."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from inspection_core import inspector
from inspection_core.cluster import BEGUN, Actor
from inspection_core.errors import UsageError
from inspection_core.inspector import FATAL, SUSPECT, Task
from inspection_core.runs import compare
from inspection_core.screen import screen
from inspection_core.session import Options, picture

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import json, socket, sys
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from inspection_core.cluster import on_ray
from inspection_core.engine import Engine
from inspection_core.screen import screen
from inspection_core.session import Options

source, model, run = map(Path, sys.argv[1:4])

def port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]

def node():
    # With ports of their own, Ray does not wait for its agents, which take long to start on a busy machine.
    agents = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    return {"num_cpus": 1, "object_store_memory": 100 << 20, **{name: port() for name in agents}}

cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **node()})
others = [cluster.add_node(**node()) for _ in range(2)]
cluster.wait_for_nodes()
killed = []

def progress(done, total):
    if done >= total // 4 and not killed:  # its images are done elsewhere
        killed.append(len(ray.nodes()))
        for process in others[0].all_processes.get("raylet", []):
            process.process.kill()

done = screen(source, Engine("cpu").load(model), run, progress=progress, options=Options(("masks",), pictures="none"),
              elsewhere=on_ray(cluster.address, device="cpu"))
print(json.dumps({"counts": done.counts, "new": done.new, "killed": killed}))
cluster.shutdown()
"""


PATIENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A busy machine starts a node slowly, and must not be taken for a dead one; a killed one refuses at once.
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_gcs_server_request_timeout_seconds": "600",
    "RAY_health_check_timeout_ms": "120000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
}


def test_a_killed_nodes_images_are_done_elsewhere(bright, parts, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed; it comes with the extra [cluster]")
    import numpy as np

    generator = np.random.default_rng(1)
    made = [generator.integers(0, 180, (32, 32)).astype(np.uint8) for _ in range(96)]
    for pixels in made[::3]:
        pixels[8:16, 8:16] = 250
    folder = parts.write(tmp_path / "pictures", made)
    (folder / "bad.png").write_bytes(b"no picture")
    here = screen(folder, bright, tmp_path / "here", options=Options(("masks",), pictures="none"))
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
        **PATIENT,
    }
    command = [sys.executable, "-c", SCRIPT, folder, bright.folder, tmp_path / "there"]
    for _ in range(3):
        shutil.rmtree(tmp_path / "there", ignore_errors=True)
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=1500)
        if "node timed out during startup" not in done.stderr:
            break
    else:
        pytest.skip("this machine is too busy: Ray gives a node half a minute to start, and three times none did")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["counts"] == here.counts
    assert (told["new"], told["killed"]) == (97, [3])
    assert compare(tmp_path / "here", tmp_path / "there").identical
    assert len(list((tmp_path / "there" / "masks").iterdir())) == 96


class DeathError(BaseException):
    """In place of SIGKILL: what ends an actor in the middle of its work, and nobody catches."""


def test_an_image_that_kills_its_actor_every_time_is_given_up(bright, pictures, monkeypatch, tmp_path):
    """What Ray does is done by hand: a batch whose actor died is given to a new one."""
    real = inspector.open_input

    def deadly(item, *rest):
        if item.files[0].name == "part02.png":
            raise DeathError
        return real(item, *rest)

    monkeypatch.setattr(inspector, "open_input", deadly)
    run = tmp_path / "run"
    tasks = [Task(p.name, picture(p)) for p in sorted(pictures.iterdir())]
    arguments = (str(bright.folder), "cpu", str(run), str(pictures), Options(pictures="none"), len(tasks))
    for _ in range(SUSPECT + FATAL):
        with pytest.raises(DeathError):
            Actor(*arguments)({"item": tasks})
    rows = {row.path: row for row in Actor(*arguments)({"item": tasks})["item"]}
    assert sorted(rows) == [task.name for task in tasks]  # each once
    assert [name for name, row in rows.items() if row.status == "failed"] == ["part02.png"]
    assert "the program died 5 times while it was in work, 3 times with nothing else" in rows["part02.png"].error
    assert not rows["part02.png"].again
    assert not list((run / BEGUN).iterdir())


def test_no_cluster_there(monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed; it comes with the extra [cluster]")
    from inspection_core.cluster import on_ray

    def refuse(**_):
        raise ConnectionError

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UsageError, match=r"There is no Ray cluster at 'auto'\. Start one with `ray start --head`"):
        on_ray("auto")


def test_ray_not_installed(monkeypatch):
    from inspection_core.cluster import on_ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r'--ray needs Ray: pip install "inspection-suite\[cluster\]"'):
        on_ray("auto")
