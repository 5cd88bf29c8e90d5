"""What every test shares: quiet surroundings, and one small Ray for those that need one."""

import os

os.environ.setdefault("RAY_DISABLE_USAGE_STATS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.pop("RAY_ADDRESS", None)  # tests start their own Ray, whatever runs on this machine

import pytest

from cluster.connect import connect


@pytest.fixture(scope="session")
def ray_local():
    """A Ray of two CPUs for all tests marked `ray` of this session; started when first asked for."""
    with connect(num_cpus=2, address="local") as connection:
        yield connection
