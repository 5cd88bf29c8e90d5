"""The contract of an alignment measure, and the features that measures work on.

A measure compares two sets of features of the same N rows: x [N, D] and y [N, E]; D and E may differ.
Its file, `<name>.py`, holds

    def <name>(x_ND, y_NE)     what people call: a pure function, computed in float64
    def prepare(features)      what one set of features contributes (a Gram matrix, neighbours, an SVD)
    def compare(a, b)          the measure, from what `prepare` gave for the two sets
    MEASURE = Measure(...)     what is true of it, as data

The function is `compare` of two `prepare`s, and so is the suite over many layers, which prepares each
layer once: there is one implementation of each measure.

Letters: N rows, D and E features, L text layers, M vision layers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

# What can be done to one set of features without changing the measure.
#   translation        the same vector added to every row
#   isotropic_scaling  every number times the same positive number
#   row_scaling        each row times a positive number of its own
#   orthogonal         rotations and reflections of feature space
#   invertible_linear  any invertible linear map of feature space
Invariance = Literal["translation", "isotropic_scaling", "row_scaling", "orthogonal", "invertible_linear"]

MIN_ROWS = 4  # the debiased estimator divides by N - 3

# A column whose rows differ by no more than this share of its mean is constant: about eight units in the
# last place of float32, the precision in which networks make features.
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Features:
    """One set of features [N, D] in float64, with what several measures need of it computed once.

    Raises:
        ValueError: not a matrix, fewer than `MIN_ROWS` rows, no column, or a value that is not finite.
    """

    values_ND: Tensor

    def __post_init__(self) -> None:
        _check(self.values_ND)
        object.__setattr__(self, "values_ND", self.values_ND.double())

    @property
    def num_rows(self) -> int:
        return self.values_ND.shape[0]

    @cached_property
    def centred_ND(self) -> Tensor:
        """The features less their mean row. Columns that are constant but for rounding are exactly zero."""
        mean_1D = self.values_ND.mean(dim=0, keepdim=True)
        centred_ND = self.values_ND - mean_1D
        is_constant_1D = centred_ND.abs().amax(dim=0, keepdim=True) <= ROUNDING * mean_1D.abs()
        return centred_ND.masked_fill(is_constant_1D, 0.0)

    @cached_property
    def gram_NN(self) -> Tensor:
        """Inner products of the centred rows; this is the centred Gram matrix HKH of the raw rows."""
        return self.centred_ND @ self.centred_ND.T


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What is true of a measure, and how to compute it: `measure(x_ND, y_NE)` is a 0-d float64 tensor."""

    name: str
    range: tuple[float, float]
    higher_is_more_aligned: bool
    is_symmetric: bool
    invariances: tuple[Invariance, ...]
    source: str
    prepare: Callable[[Features], Any]
    compare: Callable[[Any, Any], Tensor]

    def __call__(self, x_ND: Tensor, y_NE: Tensor) -> Tensor:
        """Raises ValueError where `Features` does, and when the two have different numbers of rows."""
        return compare_features(self.prepare, self.compare, x_ND, y_NE)


def compare_features(
    prepare: Callable[[Features], Any], compare: Callable[[Any, Any], Tensor], x_ND: Tensor, y_NE: Tensor
) -> Tensor:
    """`compare` of what `prepare` gives for x and for y, which must describe the same rows."""
    x, y = Features(x_ND), Features(y_NE)
    check_same_rows(x, y)
    return compare(prepare(x), prepare(y))


def check_same_rows(x: Features, y: Features) -> None:
    if x.num_rows != y.num_rows:
        raise ValueError(
            f"both sets of features must describe the same rows; got {x.num_rows} and {y.num_rows} rows"
        )


def cosine(a_NN: Tensor, b_NN: Tensor) -> Tensor:
    """The cosine between two matrices taken as vectors; 0 where either of them is zero."""
    a, b = a_NN.flatten(), b_NN.flatten()
    norms = torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b)
    return divide_or_zero(torch.dot(a, b), norms).clamp(-1.0, 1.0)  # rounding can step over 1


def divide_or_zero(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, and 0 (with gradient 0, not NaN) where the denominator is 0."""
    is_zero = denominator == 0
    return torch.where(is_zero, 0.0, numerator / torch.where(is_zero, 1.0, denominator))


def _check(values_ND: Tensor) -> None:
    if values_ND.ndim != 2:
        raise ValueError(f"features are a matrix [rows, features]; got shape {tuple(values_ND.shape)}")
    num_rows, width = values_ND.shape
    if num_rows < MIN_ROWS:
        raise ValueError(f"alignment needs at least {MIN_ROWS} rows; got {num_rows}: give it more rows")
    if width == 0:
        raise ValueError("features must have at least one column; got none")
    is_bad_N = ~torch.isfinite(values_ND).all(dim=1)
    if is_bad_N.any():
        first = int(is_bad_N.nonzero()[0])
        raise ValueError(
            f"features must be finite; {int(is_bad_N.sum())} of {num_rows} rows hold NaN or infinity, "
            f"the first is row {first}: has the network diverged?"
        )
