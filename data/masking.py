"""Which tokens and patches a network must guess. Drawn on the training device, vectorised, from a given generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_REPLACED_BY_MASK = 0.8
_REPLACED_BY_ANY_WORD = 0.1  # and the remaining tenth stays as it is


def mask_tokens(
    token_ids_BT: Tensor,
    text_mask_BT: Tensor,
    *,
    mask_id: int,
    vocabulary_size: int,
    special_ids: Sequence[int],
    probability: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """(corrupted ids [B, T], is_target [B, T] bool): the masked-language task of BERT.

    Devlin et al. 2019, section 3.1 and appendix C.2: each ordinary token is a target with `probability`; of the targets 80 %
    become [MASK], 10 % a word drawn evenly, 10 % stay. Padding and `special_ids` are never targets, and no special
    token is drawn as a word. Unlike there, a row that has an ordinary token always gets a target (with six-word texts and
    15 % a third of the rows would teach nothing). Raises ValueError for a probability outside 0..1.
    """
    _check_probability(probability)
    specials = torch.tensor(sorted(set(special_ids)), device=token_ids_BT.device)
    is_ordinary_BT = text_mask_BT & ~torch.isin(token_ids_BT, specials)
    draw_BT = _uniform(token_ids_BT.shape, generator, token_ids_BT.device).masked_fill(~is_ordinary_BT, 2.0)
    is_lowest_BT = draw_BT == draw_BT.amin(dim=1, keepdim=True)  # already a target where any token is
    is_target_BT = is_ordinary_BT & ((draw_BT < probability) | is_lowest_BT)

    fate_BT = _uniform(token_ids_BT.shape, generator, token_ids_BT.device)
    words_BT = torch.randint(
        vocabulary_size - len(specials), token_ids_BT.shape, generator=generator, device=generator.device
    ).to(token_ids_BT.device)
    for special in specials.tolist():  # ascending: steps over each special id in turn
        words_BT += words_BT >= special
    corrupted_BT = torch.where(is_target_BT & (fate_BT < _REPLACED_BY_MASK), mask_id, token_ids_BT)
    gets_word_BT = (
        is_target_BT & (fate_BT >= _REPLACED_BY_MASK) & (fate_BT < _REPLACED_BY_MASK + _REPLACED_BY_ANY_WORD)
    )
    return torch.where(gets_word_BT, words_BT, corrupted_BT), is_target_BT


def mask_patches(
    num_rows: int,
    num_patches: int,
    *,
    probability: float,
    generator: torch.Generator,
    device: torch.device | str | None = None,
) -> Tensor:
    """bool [B, N], True on the patches to hide: each with `probability`, at least one hidden and one kept a row.

    On `device`, by default the generator's. Raises ValueError for fewer than two patches or a probability outside 0..1.
    """
    _check_probability(probability)
    if num_patches < 2:
        raise ValueError(
            f"masking patches needs at least 2 a picture, one to hide and one to keep; got {num_patches}"
        )
    draw_BN = _uniform((num_rows, num_patches), generator, device or generator.device)
    rows_B = torch.arange(num_rows, device=draw_BN.device)
    is_masked_BN = draw_BN < probability
    is_masked_BN[rows_B, draw_BN.argmin(dim=1)] = True
    is_masked_BN[rows_B, draw_BN.argmax(dim=1)] = False
    return is_masked_BN


def _uniform(shape: Sequence[int], generator: torch.Generator, device: torch.device | str) -> Tensor:
    """Even draws in 0..1, made where the generator lives: a CPU generator gives the same masks on every device."""
    return torch.rand(tuple(shape), generator=generator, device=generator.device).to(device)


def _check_probability(probability: float) -> None:
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"probability must be in 0..1; got {probability}")
