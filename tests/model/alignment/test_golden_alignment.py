"""Our measures give the values of the public reference code, on the same inputs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model.alignment import Features
from model.alignment.linear_cka import linear_cka
from model.alignment.linear_cka_debiased import linear_cka_debiased
from model.alignment.mutual_knn import mutual_knn
from model.alignment.procrustes import procrustes, procrustes_distance

CASES = json.loads((Path(__file__).parent / "golden_alignment.json").read_text())["cases"]


def inputs(seed: int) -> tuple[Tensor, Tensor]:
    """Two views of 8 shared latents over 256 rows; the draws and their order are the references' own."""
    r = np.random.default_rng(seed)
    z = r.standard_normal((256, 8))
    x = z @ r.standard_normal((8, 64)) + 1.5 * r.standard_normal((256, 64)) + r.standard_normal(64)
    y = (
        np.tanh(z @ r.standard_normal((8, 64))) * 2
        + 0.8 * r.standard_normal((256, 64))
        - r.standard_normal(64)
    )
    return torch.from_numpy(x.astype("float32")), torch.from_numpy(y.astype("float32"))


def procrustes_distance_unscaled(x_ND: Tensor, y_NE: Tensor) -> Tensor:
    """The distance of centred features without scaling, which the reference reports, from our similarity."""
    norm_x, norm_y = (torch.linalg.matrix_norm(Features(v).centred_ND) for v in (x_ND, y_NE))
    return (norm_x**2 + norm_y**2 - 2 * norm_x * norm_y * procrustes(x_ND, y_NE)).sqrt()


FUNCTIONS = {
    f.__name__: f for f in (linear_cka, linear_cka_debiased, mutual_knn, procrustes_distance_unscaled)
}


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['source']}-{c['seed']}")
def test_reference_value_is_reproduced(case: dict) -> None:
    x_ND, y_NE = inputs(case["seed"])
    if case["rows"] == "unit_rows":
        x_ND, y_NE = (torch.nn.functional.normalize(v, dim=1) for v in (x_ND, y_NE))
    value = FUNCTIONS[case["measure"]](x_ND, y_NE, **case["options"])
    # 3e-5: one reference adds 1e-6 to denominators that are about 0.05 for rows of length 1.
    assert value.item() == pytest.approx(case["expected"], rel=3e-5)


def test_procrustes_distance_follows_from_the_similarity() -> None:
    x_ND, y_NE = inputs(1)
    expected = (2 - 2 * procrustes(x_ND, y_NE).item()) ** 0.5
    assert procrustes_distance(x_ND, y_NE).item() == pytest.approx(expected)
    assert procrustes_distance(x_ND, x_ND).item() == pytest.approx(0, abs=1e-6)
