"""Linear CKA from the unbiased estimator of HSIC: 0 on average for unrelated features, at any N.

Song et al. 2012, "Feature Selection via Dependence Maximization", estimate HSIC without bias (HSIC_1):

    HSIC(K, L) = 1 / (N (N - 3)) [ tr(K~ L~) + 1'K~1 1'L~1 / ((N - 1)(N - 2)) - 2 / (N - 2) 1'K~L~1 ]

where K~ is the Gram matrix with its diagonal set to 0. The bracket is the inner product of the two
*U-centred* matrices (Székely and Rizzo 2014, "Partial distance correlation with methods for dissimilarities")

    K^_ij = K~_ij - sum_l K~_il / (N - 2) - sum_l K~_lj / (N - 2) + sum_kl K~_kl / ((N - 1)(N - 2)),   K^_ii = 0

so the measure is the cosine of U-centred Gram matrices, as linear CKA is the cosine of centred ones.
"""

import torch
from torch import Tensor

from model.alignment._measure import Features, Measure, compare_features, cosine


def linear_cka_debiased(x_ND: Tensor, y_NE: Tensor) -> Tensor:
    """Debiased linear CKA, -1..1 (0 or slightly below: unrelated); constant features give 0.

    Raises:
        ValueError: unequal rows, fewer than 4 of them, or values that are not finite.
    """
    return compare_features(prepare, compare, x_ND, y_NE)


def prepare(features: Features) -> Tensor:
    """The U-centred Gram matrix [N, N]."""
    # The Gram matrix of the centred rows: U-centring removes what depends on the row or the column alone,
    # so the result is that of the raw rows, without losing digits to a large mean.
    gram_NN = features.gram_NN - torch.diag(features.gram_NN.diagonal())
    n = features.num_rows
    sum_N = gram_NN.sum(dim=0)
    centred_NN = gram_NN - (sum_N[:, None] + sum_N[None, :]) / (n - 2) + sum_N.sum() / ((n - 1) * (n - 2))
    return centred_NN - torch.diag(centred_NN.diagonal())


def compare(a_NN: Tensor, b_NN: Tensor) -> Tensor:
    return cosine(a_NN, b_NN)


MEASURE = Measure(
    name="linear_cka_debiased",
    range=(-1.0, 1.0),
    higher_is_more_aligned=True,
    is_symmetric=True,
    invariances=("translation", "isotropic_scaling", "orthogonal"),
    source="HSIC_1 of Song et al. 2012 in the CKA of Kornblith et al. 2019",
    prepare=prepare,
    compare=compare,
)
