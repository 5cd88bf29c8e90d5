"""Masked language modelling: what was the hidden word, given the other words and the image?"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.pretraining._objective import JointViews, Objective
from model.vilbert import TwoStream


class MaskedLanguage(Objective):
    """Cross entropy over the vocabulary at the corrupted tokens (Devlin et al. 2019, section 3.1).

    The decoder is tied to the word embeddings, after BERT's transform. It runs on the targets only: the
    same number as running it on every position, at a fraction of the work.
    """

    def __init__(self, network: TwoStream) -> None:
        super().__init__(network)
        if network.text is None:
            raise ValueError("masked language modelling needs a text stream")
        width = network.text.width
        self.transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), norm := nn.LayerNorm(width))
        # Logits of unit variance, whatever the size of the embeddings that they are products with: with random
        # ones of unit variance the loss would start at 17 where guessing costs 4 (vocabulary of 66).
        nn.init.constant_(norm.weight, float(width**-0.5 / network.text.word_embeddings_VD.detach().std()))
        self.bias = nn.Parameter(torch.zeros(network.text.vocabulary_size))

    def forward(self, network: TwoStream, views: JointViews) -> Tensor:
        assert network.text is not None
        assert views.masked.text_BTD is not None
        at_targets_MD = self.transform(views.masked.text_BTD[views.is_target_BT])
        logits_MV = F.linear(at_targets_MD, network.text.word_embeddings_VD, self.bias)
        words_M = views.batch.token_ids_BT[views.is_target_BT]
        # Not reduction="mean": texts without an ordinary word have no targets, and their mean is not a number.
        return F.cross_entropy(logits_MV.float(), words_M, reduction="sum") / max(1, len(words_M))


OBJECTIVE = MaskedLanguage
