"""The suite over layers gives what the measures give pair by pair, and does so quickly."""

import time

import pytest
import torch
from torch import Tensor

from model.alignment import load_measure, measure_layers, measure_names


def layers(num_layers: int, rows: int, width: int, seed: int) -> Tensor:
    return torch.randn(num_layers, rows, width, generator=torch.Generator().manual_seed(seed))


def test_matrices_are_the_measures_of_each_pair_of_layers() -> None:
    text_LND, vision_MNE = layers(3, 40, 6, 1), layers(2, 40, 9, 2)
    matrices = measure_layers(text_LND, vision_MNE)
    assert list(matrices) == list(measure_names())
    for name, matrix_LM in matrices.items():
        expected_LM = torch.stack(
            [torch.stack([load_measure(name)(t, v) for v in vision_MNE]) for t in text_LND]
        )
        assert matrix_LM.dtype == torch.float64
        assert torch.equal(matrix_LM, expected_LM)


def test_only_the_named_measures_are_computed_and_widths_may_differ_between_layers() -> None:
    text = [layers(1, 20, 4, 1)[0], layers(1, 20, 6, 2)[0]]
    matrices = measure_layers(text, layers(3, 20, 5, 3), ["svcca", "linear_cka"])
    assert list(matrices) == ["svcca", "linear_cka"]
    assert matrices["svcca"].shape == (2, 3)


def test_errors_name_the_stream_and_the_layer() -> None:
    broken_MNE = layers(3, 20, 4, 1)
    broken_MNE[2, 5, 0] = torch.nan
    with pytest.raises(ValueError, match=r"vision layer 2: .*first is row 5"):
        measure_layers(layers(2, 20, 4, 2), broken_MNE)
    with pytest.raises(ValueError, match="same rows; got 20 and 21"):
        measure_layers(layers(2, 20, 4, 1), layers(2, 21, 4, 2))
    with pytest.raises(ValueError, match="at least one text layer"):
        measure_layers([], layers(2, 20, 4, 2))
    with pytest.raises(ValueError, match="no alignment measure is called 'cka'"):
        measure_layers(layers(1, 20, 4, 1), layers(1, 20, 4, 1), ["cka"])


def test_five_by_five_layers_take_less_than_half_a_second() -> None:
    """The per-epoch set of a small search; four times the room is left for a busy machine."""
    text_LND, vision_MNE = layers(5, 512, 64, 1), layers(5, 512, 64, 2)
    names = ["linear_cka", "linear_cka_debiased", "mutual_knn", "svcca", "procrustes"]
    seconds = []
    for _ in range(2):
        start = time.process_time()
        measure_layers(text_LND, vision_MNE, names)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 2.0
