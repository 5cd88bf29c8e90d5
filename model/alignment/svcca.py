"""SVCCA: the mean canonical correlation between the directions that hold 99 % of each side's variance.

Raghu et al. 2017, "SVCCA: Singular Vector Canonical Correlation Analysis", section 2: centre, keep the
leading singular directions that explain 99 % of the variance, correlate what is left. Computed exactly
(no random projection): with x = U S V^T the canonical correlations of the kept directions are the singular
values of U_x^T U_y, and the measure is the mean of the min(kept in x, kept in y) of them.

Chance is not 0: unrelated Gaussians of D features over N rows correlate, and once both sides keep N - 1
directions the value is 1 whatever they hold. Give it many more rows than features.
"""

import torch
from torch import Tensor

from model.alignment._measure import Features, Measure, compare_features

KEPT_VARIANCE = 0.99


def svcca(x_ND: Tensor, y_NE: Tensor) -> Tensor:
    """The mean canonical correlation of the kept directions, 0..1; constant features give 0.

    Raises:
        ValueError: unequal rows, fewer than 4 of them, or values that are not finite.
    """
    return compare_features(prepare, compare, x_ND, y_NE)


def prepare(features: Features) -> Tensor:
    """The left singular vectors [N, K] of the directions that hold `KEPT_VARIANCE`; K = 0 if constant."""
    # From the eigenvectors of the smaller of x^T x and x x^T, which costs far less than an SVD of x.
    # Squaring does not hurt: the last direction kept has at least (1 - KEPT_VARIANCE) / D of the variance.
    centred_ND = features.centred_ND
    rows, width = centred_ND.shape
    if width <= rows:
        variance_D, right_DD = _eigen_descending(centred_ND.T @ centred_ND)
        kept = _num_kept(variance_D)
        return centred_ND @ right_DD[:, :kept] / variance_D[:kept].sqrt()
    variance_N, left_NN = _eigen_descending(features.gram_NN)
    return left_NN[:, : _num_kept(variance_N)]


def compare(left_a_NK: Tensor, left_b_NJ: Tensor) -> Tensor:
    if left_a_NK.shape[1] == 0 or left_b_NJ.shape[1] == 0:
        return left_a_NK.new_zeros(())
    return torch.linalg.svdvals(left_a_NK.T @ left_b_NJ).clamp_max(1.0).mean()


def _eigen_descending(symmetric_DD: Tensor) -> tuple[Tensor, Tensor]:
    values_D, vectors_DD = torch.linalg.eigh(symmetric_DD)
    return values_D.flip(0).clamp_min(0), vectors_DD.flip(1)


def _num_kept(variance_D: Tensor) -> int:
    """The fewest leading directions that hold `KEPT_VARIANCE` of the variance; 0 where there is none."""
    total = variance_D.sum()
    if total == 0:
        return 0
    return int((variance_D.cumsum(0) < KEPT_VARIANCE * total).sum()) + 1


MEASURE = Measure(
    name="svcca",
    range=(0.0, 1.0),
    higher_is_more_aligned=True,
    is_symmetric=True,
    invariances=("translation", "isotropic_scaling", "orthogonal"),
    source="Raghu et al. 2017, section 2, at 99 % of the variance",
    prepare=prepare,
    compare=compare,
)
