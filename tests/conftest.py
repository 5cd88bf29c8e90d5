"""What every test shares: quiet surroundings, and one small Ray for those that need one."""

import os
import shutil
from pathlib import Path

os.environ.setdefault("RAY_DISABLE_USAGE_STATS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.pop("RAY_ADDRESS", None)  # tests start their own Ray, whatever runs on this machine

import pytest

from cluster.connect import REPOSITORY_ROOT, connect


@pytest.fixture(scope="session")
def ray_local():
    """A Ray of two CPUs for all tests marked `ray` of this session; started when first asked for."""
    with connect(num_cpus=2, address="local") as connection:
        yield connection


@pytest.fixture(scope="session")
def toy_project(tmp_path_factory) -> Path:
    """A copy of what the entry point needs, with the experiment and the workload of tests/toy_project and no others."""
    root = tmp_path_factory.mktemp("project")
    for name in ("nas", "cluster"):
        shutil.copytree(REPOSITORY_ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (root / "nas" / "experiments").glob("*.py"):
        if path.name != "__init__.py":
            path.unlink()
    shutil.copytree(Path(__file__).parent / "toy_project", root, dirs_exist_ok=True)
    return root
