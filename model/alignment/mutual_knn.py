"""Mutual k nearest neighbours: how many of a row's nearest rows in one space are its nearest in the other.

Huh et al. 2024, "The Platonic Representation Hypothesis", appendix A: the mean over rows of
|neighbours in x ∩ neighbours in y| / k, where neighbours are the k rows of highest cosine, the row itself
left out. Unrelated features give k / (N - 1), so compare only at equal k and N.

Where we depart from it: rows at equal distance share the places that are left. Below its first tie the
text stream gives exactly equal features to equal texts, and "What colour is the shape?" is asked of a
hundred images; a plain top-k would pick among them by rounding noise or by row number, the latter alike
in both streams. With two places left and four rows at that distance, each is a neighbour with weight 1/2,
which gives the overlap expected if the choice were drawn at random. Without equal distances this is the
published measure.
"""

import torch
from torch import Tensor

from model.alignment._measure import Features, Measure, compare_features

DEFAULT_K = 10

# Distances between unit vectors that differ by less are equal: float32 networks give two equal inputs
# features that differ by a few 1e-7 of their length when they are padded or batched differently.
EQUAL_DISTANCE = 3e-6


def mutual_knn(x_ND: Tensor, y_NE: Tensor, k: int = DEFAULT_K) -> Tensor:
    """The mean share of common neighbours, 0..1; 0 when the rows of one set are all equally near.

    Identical features give 1 where no distances are equal.

    Raises:
        ValueError: unequal rows, fewer than k + 2 of them (all rows would be neighbours), or values that
            are not finite.
    """
    return compare_features(lambda features: prepare(features, k), compare, x_ND, y_NE)


def prepare(features: Features, k: int = DEFAULT_K) -> Tensor:
    """[N, N], row i: the weight with which each row is one of the k neighbours of i, over sqrt(N k)."""
    n = features.num_rows
    if not 1 <= k <= n - 2:
        raise ValueError(f"{k} nearest neighbours need at least {k + 2} rows; got {n}: give it more rows")
    distance_NN = _distances_between_directions(features.values_ND)
    distance_NN.fill_diagonal_(torch.inf)
    kth_N1 = distance_NN.kthvalue(k, dim=1, keepdim=True).values
    is_nearer_NN = distance_NN < kth_N1 - EQUAL_DISTANCE
    is_at_kth_NN = ~is_nearer_NN & (distance_NN <= kth_N1 + EQUAL_DISTANCE)
    if is_at_kth_NN.sum() == n * (n - 1):  # all rows are equally near: there are no neighbourhoods
        return torch.zeros_like(distance_NN)
    places_left_N1 = k - is_nearer_NN.sum(dim=1, keepdim=True)
    weight_N1 = places_left_N1 / is_at_kth_NN.sum(dim=1, keepdim=True)
    return (is_nearer_NN + is_at_kth_NN * weight_N1.double()) / (n * k) ** 0.5


def compare(a_NN: Tensor, b_NN: Tensor) -> Tensor:
    return torch.dot(a_NN.flatten(), b_NN.flatten())


def _distances_between_directions(values_ND: Tensor) -> Tensor:
    """Distances between the rows scaled to length 1: sqrt(2 - 2 cosine), so in the order of the cosines.

    Rounding in a cosine is relative to 1, in a distance it is relative to the distance: near rows stay
    apart, which matters for features that share one dominant direction.
    """
    unit_ND = torch.nn.functional.normalize(values_ND, dim=1, eps=torch.finfo(values_ND.dtype).tiny)
    return (2 - 2 * unit_ND @ unit_ND.T).clamp_min(0).sqrt()


MEASURE = Measure(
    name="mutual_knn",
    range=(0.0, 1.0),
    higher_is_more_aligned=True,
    is_symmetric=True,
    invariances=("isotropic_scaling", "row_scaling", "orthogonal"),
    source="Huh et al. 2024, appendix A; k = 10 and cosines as in their code",
    prepare=prepare,
    compare=compare,
)
