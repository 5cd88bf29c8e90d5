"""Every pretraining objective can be learnt, and none is swayed by padding or by pairs that are no negatives."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from data.batch import ImageTextBatch
from data.text import WordTokenizer
from model.pretraining._joint import JointPretraining
from model.pretraining._objective import JointViews, build_objective, objective_names
from model.pretraining.masked_language import MaskedLanguage
from model.vilbert import TwoStream, TwoStreamOutput

Build = Callable[..., TwoStream]
MakeBatch = Callable[..., ImageTextBatch]
NAMES = objective_names()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def views_of(
    network: TwoStream, batch: ImageTextBatch, *, targets: list[tuple[int, int]], shift: int = 1
) -> JointViews:
    """Views with masks by hand: `targets` are (row, token) pairs; patch 0 of even and patch 2 of odd rows is hidden."""
    assert network.vision is not None
    is_target_BT = torch.zeros_like(batch.text_mask_BT)
    is_target_BT[tuple(zip(*targets, strict=True))] = True
    masked_BN = torch.zeros(len(batch), network.vision.num_patches, dtype=torch.bool)
    masked_BN[0::2, 0] = True
    masked_BN[1::2, 2] = True
    return JointViews(
        network=network,
        batch=batch,
        corrupted_BT=batch.token_ids_BT.masked_fill(is_target_BT, 4),
        is_target_BT=is_target_BT,
        masked_patches_BN=masked_BN,
        mask_token_D=torch.linspace(-1, 1, network.vision.width),
        shift=shift,
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_objective_can_be_learnt(
    name: str, build: Build, make_batch: MakeBatch, tokenizer: WordTokenizer
) -> None:
    trainee = JointPretraining(build(), tokenizer, {name: 1.0})
    optimizer = torch.optim.Adam(trainee.parameters(), lr=3e-3)
    batch = make_batch(rows=8)
    losses = []
    for _ in range(30):
        loss = trainee.losses(batch, generator())["loss"]  # the same masks every time
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_padding_has_no_effect_on_any_loss(name: str, build: Build, make_batch: MakeBatch) -> None:
    network = build(gates=1.0)
    torch.manual_seed(0)
    objective = build_objective(name, network).eval()
    losses = []
    for padding in (0, 1, 5):
        batch = make_batch(lengths=[6, 4, 5, 6], padding=padding)
        losses.append(objective(network, views_of(network, batch, targets=[(0, 2), (1, 1), (3, 4)])))
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0])


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_of_an_objective_gets_a_gradient(
    name: str, build: Build, make_batch: MakeBatch
) -> None:
    network = build(gates=1.0)
    objective = build_objective(name, network)
    objective(network, views_of(network, make_batch(), targets=[(0, 2), (1, 1)])).backward()
    assert [key for key, p in objective.named_parameters() if p.grad is None] == []


def test_the_sum_is_weighted(build: Build, make_batch: MakeBatch, tokenizer: WordTokenizer) -> None:
    weights = {"masked_language": 0.5, "alignment_prediction": 2.0}
    losses = JointPretraining(build(), tokenizer, weights).losses(make_batch(), generator())
    assert set(losses) == {"loss", *weights}
    expected = 0.5 * losses["masked_language"] + 2.0 * losses["alignment_prediction"]
    torch.testing.assert_close(losses["loss"], expected)


def test_masks_come_from_the_generator_alone(
    build: Build, make_batch: MakeBatch, tokenizer: WordTokenizer
) -> None:
    trainee = JointPretraining(build(), tokenizer, dict.fromkeys(NAMES, 1.0))
    batch = make_batch()
    first = trainee.losses(batch, generator(1))["loss"]
    torch.rand(7)
    assert torch.equal(trainee.losses(batch, generator(1))["loss"], first)
    assert not torch.equal(trainee.losses(batch, generator(2))["loss"], first)


@pytest.mark.parametrize(
    ("names", "passes"),
    [(("masked_language",), 1), (("alignment_prediction",), 2), (("masked_image",), 2), (NAMES, 3)],
)
def test_only_the_passes_that_are_needed_are_run(
    names: tuple[str, ...], passes: int, build: Build, make_batch: MakeBatch, tokenizer: WordTokenizer
) -> None:
    network = build()
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    JointPretraining(network, tokenizer, dict.fromkeys(names, 1.0)).losses(make_batch(), generator())
    assert len(calls) == passes


class TestMaskedLanguage:
    def test_the_head_on_targets_is_the_head_on_everything(self, build: Build, make_batch: MakeBatch) -> None:
        network = build(gates=1.0)
        objective = MaskedLanguage(network)
        views = views_of(network, make_batch(), targets=[(0, 2), (1, 1), (1, 4), (3, 3)])
        assert network.text is not None
        states_BTD = cast(Tensor, views.masked.text_BTD)
        logits_BTV = F.linear(
            objective.transform(states_BTD), network.text.word_embeddings_VD, objective.bias
        )
        labels_BT = views.batch.token_ids_BT.masked_fill(~views.is_target_BT, -100)
        expected = F.cross_entropy(logits_BTV.flatten(0, 1), labels_BT.flatten(), ignore_index=-100)
        torch.testing.assert_close(objective(network, views), expected)

    @pytest.mark.parametrize("embedding_std", [0.02, 1.0])
    def test_it_starts_where_guessing_is(
        self, embedding_std: float, build: Build, make_batch: MakeBatch, tokenizer: WordTokenizer
    ) -> None:
        """Products with embeddings of unit variance would start it at several times the logarithm of the words."""
        network = build()
        assert network.text is not None
        torch.nn.init.normal_(network.text.word_embeddings_VD, std=embedding_std)
        trainee = JointPretraining(network, tokenizer, {"masked_language": 1.0}, token_probability=0.9)
        loss = trainee.losses(make_batch(rows=64), generator())["loss"].item()
        assert loss == pytest.approx(math.log(tokenizer.vocabulary_size), abs=1.0)

    def test_texts_without_words_cost_nothing(
        self, build: Build, make_batch: MakeBatch, tokenizer: WordTokenizer
    ) -> None:
        trainee = JointPretraining(build(), tokenizer, {"masked_language": 1.0})
        assert trainee.losses(make_batch(lengths=[2, 2]), generator())["loss"].item() == 0.0


class TestAlignmentPrediction:
    def test_pairs_that_share_their_text_or_image_are_no_negatives(
        self, build: Build, make_batch: MakeBatch
    ) -> None:
        batch = make_batch(rows=5)
        batch.token_ids_BT[1] = batch.token_ids_BT[
            0
        ]  # row 1 gets row 0's image, which its text describes too
        batch.images_BCHW[3] = batch.images_BCHW[2]
        views = views_of(build(), batch, targets=[(0, 1)], shift=1)
        assert views.is_mismatch_B.tolist() == [True, False, True, False, True]

    def test_such_pairs_do_not_count(self, build: Build, make_batch: MakeBatch) -> None:
        network = build(gates=1.0)
        objective = build_objective("alignment_prediction", network).eval()
        batch = make_batch(rows=4)
        batch.token_ids_BT[1] = batch.token_ids_BT[0]
        views = views_of(network, batch, targets=[(0, 1)])
        outputs = [views.clean, views.mismatched]
        joined = [
            objective.text(out.text_cls_BD) * objective.vision(out.vision_cls_BD)  # type: ignore[operator]
            for out in outputs
        ]
        matched_B, mismatched_B = (objective.classifier(pair).squeeze(-1) for pair in joined)  # type: ignore[operator]
        terms = torch.cat([F.softplus(-matched_B), F.softplus(mismatched_B)[[0, 2, 3]]])
        torch.testing.assert_close(objective(network, views), terms.mean())

    def test_a_single_row_has_no_negative(
        self, build: Build, make_batch: MakeBatch, tokenizer: WordTokenizer
    ) -> None:
        trainee = JointPretraining(build(), tokenizer, {"alignment_prediction": 1.0})
        assert math.isfinite(trainee.losses(make_batch(rows=1), generator())["loss"].item())

    @pytest.mark.parametrize("seed", range(5))
    def test_no_row_keeps_its_own_image(
        self, seed: int, build: Build, make_batch: MakeBatch, tokenizer: WordTokenizer
    ) -> None:
        trainee = JointPretraining(build(), tokenizer, {"alignment_prediction": 1.0})
        assert trainee._views(make_batch(rows=5), generator(seed)).is_mismatch_B.all()


class TestMaskedImage:
    def test_no_gradient_flows_into_keys(self, build: Build, make_batch: MakeBatch) -> None:
        network = build()
        objective = build_objective("masked_image", network)
        views = views_of(network, make_batch(), targets=[(0, 1)])
        keys, queries = (torch.randn(4, 5, 16, requires_grad=True) for _ in range(2))
        vars(views)["clean"] = TwoStreamOutput(vision_BND=keys)
        vars(views)["masked"] = TwoStreamOutput(vision_BND=queries)
        objective(network, views).backward()
        assert keys.grad is None
        assert queries.grad is not None
        is_query_BN = F.pad(views.masked_patches_BN, (1, 0))  # the CLS token is no patch
        assert ((queries.grad.abs().sum(-1) > 0) == is_query_BN).all()

    def test_the_right_patch_of_the_right_picture_is_the_answer(
        self, build: Build, make_batch: MakeBatch
    ) -> None:
        network = build()
        objective = build_objective("masked_image", network)
        objective.predictor = torch.nn.Identity()
        views = views_of(network, make_batch(), targets=[(0, 1)])
        keys = torch.randn(4, 5, 16)
        vars(views)["clean"] = vars(views)["masked"] = TwoStreamOutput(vision_BND=keys)
        right = objective(network, views)
        vars(views)["masked"] = TwoStreamOutput(vision_BND=keys.roll(1, 0))
        assert right < 0.1 < objective(network, views)


def test_an_unknown_objective_lists_the_known_ones(build: Build, tokenizer: WordTokenizer) -> None:
    with pytest.raises(ValueError, match=r"'mlm'; there are alignment_prediction, .*masked_language"):
        JointPretraining(build(), tokenizer, {"mlm": 1.0})


def test_what_cannot_be_pretrained_is_refused(build: Build, tokenizer: WordTokenizer, tiny) -> None:
    with pytest.raises(ValueError, match="at least one objective"):
        JointPretraining(build(), tokenizer, {})
    text_only = build(replace(tiny, placement=type(tiny.placement)()), modality="text")
    with pytest.raises(ValueError, match="needs both streams"):
        JointPretraining(text_only, tokenizer, {"masked_language": 1.0})
