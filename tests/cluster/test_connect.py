"""Starting and joining Ray. Joining is done by processes of their own: one process has one Ray."""

import os
import subprocess
import sys

import pytest

from cluster.connect import REPOSITORY_ROOT, ClusterError, connect, default_storage_root

JOIN = """
import sys
from cluster.connect import ClusterError, connect
import ray
ray.__version__ = sys.argv[2] if len(sys.argv) > 2 else ray.__version__
try:
    with connect(num_cpus=7, address=sys.argv[1]) as connection:
        assert not connection.is_own and connection.num_cpus == 2, connection
        @ray.remote(num_cpus=0)
        def imported():
            import nas.configuration
            return nas.configuration.__name__
        print(ray.get(imported.remote()))
except ClusterError as error:
    print(error)
"""


def _join(address: str, cwd, *arguments: str, **variables: str) -> str:
    """What a process that joins `address` from the folder `cwd` prints."""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_AUTH_MODE"} | variables
    done = subprocess.run(
        [sys.executable, "-c", JOIN, address, *arguments],
        cwd=cwd,
        env=environment | {"PYTHONPATH": str(REPOSITORY_ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.ray
def test_workers_find_our_packages_and_take_one_thread_each(ray_local):
    import ray

    @ray.remote
    def surroundings() -> tuple[str, str | None]:
        return os.environ["PYTHONPATH"].split(os.pathsep)[0], os.environ.get("OMP_NUM_THREADS")

    assert ray.get(surroundings.remote()) == (str(REPOSITORY_ROOT), "1")
    assert ray_local.is_own
    assert ray_local.num_cpus == 2


@pytest.mark.ray
def test_a_connection_inside_another_uses_it_and_leaves_it_running(ray_local):
    import ray

    with connect(num_cpus=7) as inner:
        assert not inner.is_own
        assert inner.address == ray_local.address
    assert ray.is_initialized()


@pytest.mark.ray
def test_another_process_joins_with_our_packages_on_its_workers(ray_local, tmp_path):
    assert _join(ray_local.address, tmp_path, RAY_AUTH_MODE="token") == "nas.configuration"
    assert _join("", tmp_path, RAY_AUTH_MODE="token", RAY_ADDRESS=ray_local.address) == "nas.configuration"


@pytest.mark.ray
def test_a_cluster_that_cannot_be_joined_is_named_with_the_mend(ray_local, tmp_path):
    other_version = _join(ray_local.address, tmp_path, "1.2.3", RAY_AUTH_MODE="token")
    assert "runs other versions than this process" in other_version
    assert "1.2.3" in other_version
    # Ray asks twenty times, a second apart, before it believes the refusal; here twice is enough
    without_token = _join(
        ray_local.address, tmp_path, RAY_AUTH_MODE="disabled", RAY_NUM_REDIS_GET_RETRIES="2"
    )
    assert "refused us; set RAY_AUTH_MODE" in without_token
    for message in (other_version, without_token):
        assert "\n" not in message


def test_an_address_where_nobody_listens_is_refused_at_once(tmp_path):
    message = _join("127.0.0.1:1", tmp_path)
    assert message.startswith("no Ray cluster answers at 127.0.0.1:1")
    assert "unset RAY_ADDRESS" in message


def test_runs_lie_in_the_current_folder_but_not_in_the_uploaded_copy_of_a_job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_storage_root() == tmp_path / "runs"
    uploaded = tmp_path / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    uploaded.mkdir(parents=True)
    monkeypatch.chdir(uploaded)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert default_storage_root() == tmp_path / "home" / "crosstie-runs"


def test_an_error_is_a_value_error_so_that_the_command_line_shows_one_line():
    assert issubclass(ClusterError, ValueError)
