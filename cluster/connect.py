"""Starting or joining Ray: the one place that calls `ray.init`.

    with connect(num_cpus=2) as connection:        # a Ray of our own on this machine, gone when the block ends
        ...
    with connect(address="10.0.0.5:6379"):         # or RAY_ADDRESS, or `ray job submit`: joins that cluster
        ...

Ray is imported when `connect` is called, not before: everything else works where Ray is not installed.
"""

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

REPOSITORY_ROOT = Path(__file__).resolve().parent.parent

# Set by `ray job submit` in the environment of the driver it starts.
_IS_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


class ClusterError(ValueError):
    """Ray cannot be started or joined. Its text is one line: what, and the mend."""


@dataclass(frozen=True)
class Connection:
    """The Ray this process is connected to, as it was when the connection was made."""

    address: str
    num_cpus: float
    num_gpus: float
    is_own: bool
    """Started by us, on this machine, and ended with the connection."""


@contextmanager
def connect(
    *,
    num_cpus: int | None = None,
    address: str | None = None,
    resources: Mapping[str, float] | None = None,
    with_dashboard: bool = False,
) -> Iterator[Connection]:
    """Connects to Ray for the length of a `with` block, and ends only what it started.

    A Ray that this process is already connected to is used as it is. Otherwise the cluster at `address`, or else at
    RAY_ADDRESS, is joined. Otherwise a Ray is started on this machine, even beside others that run here.

    Args:
        num_cpus: of the Ray we start; None takes every core. A cluster that is joined has its own.
        address: "host:port" of a cluster, "auto" for the one on this machine, "local" to start one in any case.
        resources: custom resources of the Ray we start, as `{"trial_slot": 4}`.
        with_dashboard: of the Ray we start. Needed where Tune may stop trials that have a Ray Train run inside:
            the clean-up of their workers asks the dashboard.

    Raises:
        ClusterError: nothing answers at the address, it is another Ray or Python version or wants a token, or no Ray
            could be started here.
    """
    os.environ.setdefault("RAY_DISABLE_USAGE_STATS", "1")
    # The future behaviour of Ray (leave CUDA_VISIBLE_DEVICES alone for workers without GPUs), without its warning.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        yield _connection(is_own=False)
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    auth_mode = os.environ.get("RAY_AUTH_MODE")
    if address == "local":
        _start(num_cpus=num_cpus, resources=resources, with_dashboard=with_dashboard)
    else:
        _join(address)
    try:
        connection = _connection(is_own=address == "local")
        log.info(
            "Ray %s %s: %g CPUs, %g GPUs",
            ray.__version__,
            "on this machine" if connection.is_own else f"at {connection.address}",
            connection.num_cpus,
            connection.num_gpus,
        )
        yield connection
    finally:
        ray.shutdown()
        if auth_mode is None:  # Ray sets it for its own children; ours should not inherit it
            os.environ.pop("RAY_AUTH_MODE", None)


def default_storage_root() -> Path:
    """The folder for runs when none is given: `runs` in the current directory.

    The driver of a `ray job submit --working-dir` stands in an uploaded copy that Ray deletes later; its runs go to
    `~/crosstie-runs` of the head node.
    """
    here = Path.cwd()
    if _IS_JOB in os.environ and "runtime_resources" in here.parts:
        return Path.home() / "crosstie-runs"
    return here / "runs"


def _connection(*, is_own: bool) -> Connection:
    import ray

    cluster = ray.cluster_resources()
    return Connection(
        address=ray.get_runtime_context().gcs_address,
        num_cpus=cluster.get("CPU", 0),
        num_gpus=cluster.get("GPU", 0),
        is_own=is_own,
    )


def _start(*, num_cpus: int | None, resources: Mapping[str, float] | None, with_dashboard: bool) -> None:
    import ray

    variables = _python_path()
    if "OMP_NUM_THREADS" not in os.environ:
        # A worker imports torch before Ray tells it how many CPUs it has; without this every trial takes all cores.
        variables["OMP_NUM_THREADS"] = "1"
    arguments: dict[str, Any] = {
        "address": "local",
        "num_cpus": num_cpus,
        "resources": dict(resources or {}) or None,
        "include_dashboard": with_dashboard,
        "runtime_env": {"env_vars": variables},
        "log_to_driver": False,
        "logging_level": logging.ERROR,  # its INFO and WARNING at this point are nothing a user can act on
    }
    try:
        _start_once_more_if_slow(arguments)
    except Exception as error:
        ray.shutdown()
        raise ClusterError(
            f"Ray did not start on this machine: {_one_line(error)}; its logs are in /tmp/ray/session_latest/logs"
        ) from error


def _start_once_more_if_slow(arguments: Mapping[str, Any]) -> None:
    import ray

    try:
        ray.init(**arguments)
    except Exception as error:  # Ray raises a bare Exception here
        if "timed out" not in str(error):
            raise
        log.warning("Ray took too long to start on this busy machine; trying once more")
        ray.shutdown()
        ray.init(**arguments)


def _join(address: str) -> None:
    import ray

    _check_that_something_listens(address)
    # A job brings its own environment: Ray puts its uploaded directory on every worker's path, and setting a
    # variable a second time would be refused. Who joins without a job runs where the nodes see the same files.
    runtime_env = None if _IS_JOB in os.environ else {"env_vars": _python_path()}
    try:
        ray.init(address=address, runtime_env=runtime_env, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        ray.shutdown()
        raise ClusterError(_why_not_joined(address, error)) from error


def _check_that_something_listens(address: str) -> None:
    """Ray itself tries for minutes on an address where nobody is."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not (host and port.isdigit()):
        return  # "auto" and the like, which Ray resolves
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise ClusterError(_why_not_joined(address, error)) from None


def _why_not_joined(address: str, error: Exception) -> str:
    if "Version mismatch" in str(error):
        return (
            f"the cluster at {address} runs other versions than this process; give both the same Ray and Python "
            f"({_one_line(error)})"
        )
    # Ray wraps the refusal twice and keeps only its text.
    if any(
        word in str(e)
        for e in _with_its_causes(error)
        for word in ("AuthenticationError", "InvalidAuthToken")
    ):
        return (
            f"the cluster at {address} refused us; set RAY_AUTH_MODE as it was set where the cluster was started, and "
            f"with RAY_AUTH_MODE=token put the cluster's token into ~/.ray/auth_token"
        )
    return (
        f"no Ray cluster answers at {address} ({_one_line(error)}); start one with `ray start --head`, mend or unset "
        "RAY_ADDRESS, or leave the address out to run on this machine"
    )


def _with_its_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _python_path() -> dict[str, str]:
    """PYTHONPATH with the root of this repository first, so that workers find our packages."""
    rest = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(REPOSITORY_ROOT), *([rest] if rest else [])])}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
