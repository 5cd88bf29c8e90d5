"""Masks have the shares the papers give and never touch what they must not."""

import pytest
import torch

from data.masking import mask_patches, mask_tokens

PAD, CLS, SEP, MASK = 0, 2, 3, 4
SPECIALS = (0, 1, 2, 3, 4)
VOCABULARY = 40


def tokens(rows: int, words: int) -> torch.Tensor:
    body = torch.randint(5, VOCABULARY, (rows, words), generator=torch.Generator().manual_seed(0))
    edge = torch.ones(rows, 1, dtype=torch.int64)
    return torch.cat([edge * CLS, body, edge * SEP], dim=1)


def mask(ids: torch.Tensor, probability: float, seed: int = 0, valid: torch.Tensor | None = None):
    return mask_tokens(
        ids,
        torch.ones_like(ids, dtype=torch.bool) if valid is None else valid,
        mask_id=MASK,
        vocabulary_size=VOCABULARY,
        special_ids=SPECIALS,
        probability=probability,
        generator=torch.Generator().manual_seed(seed),
    )


def test_shares_are_15_and_80_10_10():
    ids = tokens(2000, 50)
    corrupted, is_target = mask(ids, 0.15)
    words = ids[:, 1:-1]
    assert is_target[:, 1:-1].float().mean().item() == pytest.approx(0.15, abs=0.005)
    masked = (corrupted == MASK) & is_target
    changed = (corrupted != ids) & ~masked
    assert masked.sum().item() / is_target.sum().item() == pytest.approx(0.8, abs=0.01)
    # one word in 35 is drawn as itself
    assert changed.sum().item() / is_target.sum().item() == pytest.approx(0.1 * 34 / 35, abs=0.01)
    assert not changed[~is_target].any()
    drawn = corrupted[changed]
    assert set(drawn.unique().tolist()) == set(words.unique().tolist()) == set(range(5, VOCABULARY))


def test_special_tokens_and_padding_are_left_alone():
    ids = tokens(64, 6)
    valid = torch.ones_like(ids, dtype=torch.bool)
    ids[:, 5:], valid[:, 5:] = PAD, False
    ids[:, 4] = SEP
    corrupted, is_target = mask(ids, 1.0, valid=valid)
    assert is_target[:, 1:4].all()
    assert not is_target[:, [0, 4, 5, 6, 7]].any()
    torch.testing.assert_close(corrupted[:, 4:], ids[:, 4:])


def test_every_row_with_a_word_has_a_target():
    ids = tokens(500, 4)
    ids[0] = torch.tensor([CLS, SEP, PAD, PAD, PAD, PAD])
    _, is_target = mask(ids, 0.0)
    assert not is_target[0].any()
    assert (is_target[1:].sum(dim=1) == 1).all()


def test_the_seed_decides():
    ids = tokens(8, 10)
    first, again, other = mask(ids, 0.3, 1)[0], mask(ids, 0.3, 1)[0], mask(ids, 0.3, 2)[0]
    torch.testing.assert_close(first, again)
    assert (first != other).any()


def test_patches_keep_one_and_hide_one():
    for probability in (0.0, 0.5, 1.0):
        hidden = mask_patches(200, 16, probability=probability, generator=torch.Generator().manual_seed(0))
        assert hidden.shape == (200, 16)
        assert hidden.any(dim=1).all()
        assert not hidden.all(dim=1).any()
    hidden = mask_patches(2000, 64, probability=0.4, generator=torch.Generator().manual_seed(0))
    assert hidden.float().mean().item() == pytest.approx(0.4, abs=0.01)


def test_impossible_requests_are_refused():
    generator = torch.Generator()
    with pytest.raises(ValueError, match="at least 2"):
        mask_patches(4, 1, probability=0.5, generator=generator)
    with pytest.raises(ValueError, match=r"0\.\.1; got 1.5"):
        mask_patches(4, 4, probability=1.5, generator=generator)
    with pytest.raises(ValueError, match=r"0\.\.1; got -0.1"):
        mask(tokens(2, 3), -0.1)
