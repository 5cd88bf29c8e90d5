"""Seeds: every random draw of a run comes from one number."""

import hashlib
import random

import numpy as np
import torch


def derived_seed(seed: int, *purpose: object) -> int:
    """A seed for one purpose, a pure function of the run's seed and the purpose's words.

    Below 2**31, so that every library takes it.
    """
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) & 0x7FFFFFFF


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch; actors are reused between trials, so each trial starts with this."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
