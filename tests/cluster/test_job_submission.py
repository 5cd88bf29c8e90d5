"""`ray job submit --working-dir . -- python nas/run_search.py ...` on a Ray head of its own, tokens on."""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.connect import REPOSITORY_ROOT
from nas.typed_values import OUR_PACKAGES

pytestmark = pytest.mark.ray

RAY = Path(sys.executable).with_name("ray")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture
def head(tmp_path_factory) -> Iterator[tuple[str, dict[str, str]]]:
    """A `ray start --head` on free ports, as (the address for jobs, the environment of head and client).

    It is ended by a signal to its process; `ray stop` would end every Ray on this machine.
    """
    folder = tmp_path_factory.mktemp("h")
    home = folder / "home"
    home.mkdir()
    environment = os.environ | {
        "HOME": str(home),
        # the `python` of a job is looked up on the PATH of the head
        "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    port, dashboard, client, agent = _free_ports(4)
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats", f"--port={port}"]
    command += [f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    # a short path: the sockets of Ray lie below it, and their names have a limit of 107 characters
    temporary = Path(f"/tmp/ct-{port}")
    command += [f"--dashboard-agent-listen-port={agent}", f"--temp-dir={temporary}"]
    log = folder / "head.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        deadline = time.monotonic() + 120
        while subprocess.run(
            [RAY, "job", "list", "--address", address], env=environment, capture_output=True
        ).returncode:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield address, environment
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(temporary, ignore_errors=True)


def _submit(head, working_directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    address, environment = head
    command = [RAY, "job", "submit", "--address", address, "--working-dir", working_directory, "--"]
    return subprocess.run(
        [*command, "python", "nas/run_search.py", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of what a person would submit from: the packages, without environment, runs and tests."""
    root = tmp_path_factory.mktemp("project")
    for name in OUR_PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY_ROOT / name, root / name, ignore=ignored)
    return root


def test_a_submitted_search_runs_on_the_cluster_and_its_failure_is_the_jobs(head, project):
    done = _submit(head, project, "smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"stage 3/3 confirmation: (\d+)/\1 trials \(\1 done\)", done.stdout)
    # its folder is not in the uploaded copy, which Ray deletes later
    (folder,) = (Path(head[1]["HOME"]) / "crosstie-runs").glob("smoke-*")
    assert (folder / "report" / "index.html").stat().st_size > 100_000
    facts = json.loads((folder / "environment.json").read_text())
    assert facts["finished_at"]
    assert "runtime_resources" in facts["working_directory"]

    mistaken = _submit(head, project, "smokey")
    assert mistaken.returncode == 1  # Ray's, for any failure; ours is in its message
    assert "error: unknown experiment smokey; did you mean smoke?" in mistaken.stdout
    assert "exit code 2" in mistaken.stdout
