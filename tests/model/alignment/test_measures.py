"""Every file of model/alignment is put through the contract of a measure."""

import importlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model.alignment import Measure, load_measure, measure_names
from model.alignment.linear_cka import linear_cka
from model.alignment.linear_cka_debiased import linear_cka_debiased
from model.alignment.mutual_knn import mutual_knn
from model.alignment.svcca import svcca

NUM_ROWS, WIDTH = 96, 12


@pytest.fixture(params=measure_names())
def measure(request: pytest.FixtureRequest) -> Measure:
    return load_measure(request.param)


def gaussian(rows: int, width: int, seed: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related_pair(noise: float = 0.5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two views, 12 and 7 features wide, of the same 4 latents, away from the origin."""
    latent_N4 = gaussian(NUM_ROWS, 4, seed)
    x_ND = latent_N4 @ gaussian(4, WIDTH, seed + 1) + noise * gaussian(NUM_ROWS, WIDTH, seed + 2) + 1.0
    y_NE = latent_N4 @ gaussian(4, 7, seed + 3) + noise * gaussian(NUM_ROWS, 7, seed + 4) - 0.5
    return x_ND, y_NE


def rotation() -> Tensor:
    return torch.linalg.qr(gaussian(WIDTH, WIDTH, 50)).Q


# What each declared invariance promises, as a change to x.
CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "translation": lambda x: x + 3 * gaussian(1, WIDTH, 51),
    "isotropic_scaling": lambda x: 7.5 * x,
    "row_scaling": lambda x: x * (0.2 + gaussian(len(x), 1, 52).abs()),
    "orthogonal": lambda x: x @ rotation(),
    "invertible_linear": lambda x: x @ (rotation() * torch.logspace(-1, 1, WIDTH, dtype=torch.float64)),
}


def test_file_holds_what_the_contract_asks(measure: Measure) -> None:
    module = importlib.import_module(f"model.alignment.{measure.name}")
    function = getattr(module, measure.name)
    x_ND, y_NE = related_pair()
    assert function(x_ND, y_NE).item() == measure(x_ND, y_NE).item()
    assert function.__doc__
    assert measure.source
    assert set(measure.invariances) <= set(CHANGES)


def test_value_is_a_float64_number_within_the_range(measure: Measure) -> None:
    low, high = measure.range
    for x_ND, y_NE in (related_pair(), (gaussian(40, 60, 1), gaussian(40, 3, 2))):
        value = measure(x_ND.float(), y_NE.float())
        assert value.shape == ()
        assert value.dtype == torch.float64
        assert low <= value.item() <= high


def test_identical_features_are_the_most_aligned(measure: Measure) -> None:
    x_ND, _ = related_pair()
    best = measure.range[1] if measure.higher_is_more_aligned else measure.range[0]
    assert measure(x_ND, x_ND).item() == pytest.approx(best, abs=1e-9)


def test_symmetry_is_as_declared(measure: Measure) -> None:
    x_ND, y_NE = related_pair()
    is_equal = measure(x_ND, y_NE).item() == pytest.approx(measure(y_NE, x_ND).item(), abs=1e-9)
    assert is_equal == measure.is_symmetric


@pytest.mark.parametrize("change", CHANGES)
def test_invariances_are_as_declared(measure: Measure, change: str) -> None:
    """Also that what is not declared does change the value: the declaration is complete."""
    x_ND, y_NE = related_pair()
    before, after = measure(x_ND, y_NE).item(), measure(CHANGES[change](x_ND), y_NE).item()
    assert (after == pytest.approx(before, abs=1e-9)) == (change in measure.invariances)


def test_order_of_the_rows_is_irrelevant_but_their_pairing_is_not(measure: Measure) -> None:
    x_ND, y_NE = related_pair()
    order_N = torch.randperm(NUM_ROWS, generator=torch.Generator().manual_seed(9))
    value = measure(x_ND, y_NE).item()
    assert measure(x_ND[order_N], y_NE[order_N]).item() == pytest.approx(value, abs=1e-9)
    is_worse = measure(x_ND[order_N], y_NE).item() < value
    assert is_worse == measure.higher_is_more_aligned


def test_planted_alignment_is_ranked_rightly(measure: Measure) -> None:
    values = [measure(*related_pair(noise)).item() for noise in (0.1, 1.0, 10.0)]
    assert sorted(values, reverse=measure.higher_is_more_aligned) == values


@pytest.mark.parametrize("constant", [torch.zeros, lambda n, d: torch.full((n, d), 0.1)])
def test_constant_features_give_zero_not_nan(measure: Measure, constant: Callable) -> None:
    x_ND, _ = related_pair()
    constant_NE = constant(NUM_ROWS, 5)
    assert measure(x_ND, constant_NE).item() == 0
    assert measure(constant_NE, x_ND).item() == 0
    assert measure(constant_NE, constant_NE).item() == 0


def test_repeated_columns_and_rows_are_legal(measure: Measure) -> None:
    x_ND, y_NE = related_pair()
    low, high = measure.range
    assert measure(torch.cat([x_ND, x_ND], dim=1), x_ND).item() == pytest.approx(high, abs=1e-6)
    few_distinct_ND = x_ND[torch.arange(NUM_ROWS) % 5]
    assert low <= measure(few_distinct_ND, y_NE).item() <= high


@pytest.mark.parametrize(
    ("x_ND", "y_NE", "message"),
    [
        (torch.ones(5, 2), torch.ones(6, 2), "same rows; got 5 and 6"),
        (torch.ones(3, 2), torch.ones(3, 2), "at least 4 rows; got 3"),
        (torch.ones(5), torch.ones(5, 2), r"got shape \(5,\)"),
        (torch.ones(5, 0), torch.ones(5, 2), "at least one column"),
        (torch.ones(5, 2), torch.tensor([[0.0], [1], [torch.nan], [torch.inf], [2]]), "2 of 5 .* row 2"),
    ],
)
def test_unusable_features_are_refused(measure: Measure, x_ND: Tensor, y_NE: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(x_ND, y_NE)


def test_inputs_are_left_as_they_were(measure: Measure) -> None:
    x_ND, y_NE = related_pair()
    before_ND = x_ND.clone()
    measure(x_ND, y_NE)
    assert torch.equal(x_ND, before_ND)


def test_unknown_measure_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'linear_ckaa'; there are .*linear_cka.*mutual_knn"):
        load_measure("linear_ckaa")
    with pytest.raises(ValueError, match="_suite"):
        load_measure("_suite")


def test_debiased_cka_of_unrelated_features_is_about_zero_and_the_biased_is_not() -> None:
    x_ND, y_NE = gaussian(80, 768, 1), gaussian(80, 768, 2)
    assert abs(linear_cka_debiased(x_ND, y_NE).item()) < 0.03
    assert linear_cka(x_ND, y_NE).item() == pytest.approx(0.91, abs=0.01)


def test_debiased_cka_is_the_formula_of_song() -> None:
    x_ND, y_NE = related_pair()
    grams = {name: v @ v.T for name, v in (("x", x_ND), ("y", y_NE))}  # of raw rows, as published

    def hsic(a: str, b: str) -> float:
        k, m = (grams[g] - torch.diag(grams[g].diagonal()) for g in (a, b))
        n = len(k)
        middle = k.sum() * m.sum() / ((n - 1) * (n - 2))
        return float((torch.trace(k @ m) + middle - 2 / (n - 2) * (k @ m).sum()) / (n * (n - 3)))

    expected = hsic("x", "y") / (hsic("x", "x") * hsic("y", "y")) ** 0.5
    assert linear_cka_debiased(x_ND, y_NE).item() == pytest.approx(expected, abs=1e-12)


def test_linear_cka_is_the_formula_in_feature_space() -> None:
    x_ND, y_NE = (v - v.mean(0) for v in related_pair())
    norm = torch.linalg.matrix_norm
    expected = norm(y_NE.T @ x_ND) ** 2 / (norm(x_ND.T @ x_ND) * norm(y_NE.T @ y_NE))
    assert linear_cka(x_ND, y_NE).item() == pytest.approx(expected.item(), abs=1e-12)


def test_large_means_cost_no_digits() -> None:
    x_ND, y_NE = related_pair()
    for cka in (linear_cka, linear_cka_debiased):
        assert cka(x_ND + 1e4, y_NE).item() == pytest.approx(cka(x_ND, y_NE).item(), abs=1e-8)


def test_unrelated_features_share_neighbours_by_chance() -> None:
    n, k = 400, 10
    assert mutual_knn(gaussian(n, 8, 1), gaussian(n, 8, 2), k).item() == pytest.approx(k / (n - 1), abs=0.01)


def test_equal_texts_are_shared_out_not_picked_by_row_number() -> None:
    """Both sides hold 8 groups of 12 equal rows, unrelated: what they share is chance, not the row order."""
    groups = torch.arange(96) // 12
    x_ND = gaussian(8, 6, 1)[groups]
    y_NE = gaussian(8, 6, 2)[groups[torch.randperm(96, generator=torch.Generator().manual_seed(3))]]
    noisy_ND = x_ND + 1e-7 * gaussian(96, 6, 4)
    value = mutual_knn(x_ND, y_NE).item()
    assert value == pytest.approx(10 / 95, abs=0.05)
    assert mutual_knn(noisy_ND, y_NE).item() == pytest.approx(value, abs=1e-12)
    # Ten of eleven equal rows are neighbours, so each is one with weight 10/11, in both.
    assert mutual_knn(x_ND, x_ND).item() == pytest.approx(10 / 11)


def test_too_few_rows_for_k_neighbours_are_refused() -> None:
    with pytest.raises(ValueError, match="10 nearest neighbours need at least 12 rows; got 11"):
        mutual_knn(gaussian(11, 3, 1), gaussian(11, 3, 2))


def test_svcca_is_textbook_cca_of_the_leading_directions() -> None:
    """Against correlations from whitened covariances, on inputs that keep every direction."""
    x_ND, y_NE = (v - v.mean(0) for v in (gaussian(200, 5, 1), gaussian(200, 3, 2)))
    y_NE = y_NE + x_ND[:, :3]

    def whiten(v: Tensor) -> Tensor:
        return v @ torch.linalg.inv(torch.linalg.cholesky(v.T @ v)).T

    expected = torch.linalg.svdvals(whiten(x_ND).T @ whiten(y_NE)).mean()
    assert svcca(x_ND, y_NE).item() == pytest.approx(expected.item(), abs=1e-10)


def test_svcca_does_not_mind_which_of_rows_and_features_are_more() -> None:
    """Padding with zero columns changes the route (Gram matrix of rows), not the value."""
    x_ND, y_NE = gaussian(30, 10, 1), gaussian(30, 6, 2)
    wide_ND = torch.cat([x_ND, torch.zeros(30, 40, dtype=torch.float64)], dim=1)
    assert svcca(wide_ND, y_NE).item() == pytest.approx(svcca(x_ND, y_NE).item(), abs=1e-10)
