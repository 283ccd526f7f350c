"""Distillation of similarities: the softmax over the batch is drawn to the reference's (MobileCLIP, arXiv 2311.17049)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from drrho_clip import distributed
from drrho_clip.method.contrastive import GlobalBatch, Pair


class Distillation(NamedTuple):
    """The term over the global batch, and its gradients."""

    value: Tensor  # 0-d, mean over valid anchors and both sides
    gradient: Pair  # by this rank's features; times the world size, for DDP's mean
    by_temperature: Tensor  # 0-d, by the student's temperature, of the whole batch


@torch.no_grad()
def distill(batch: GlobalBatch, temperature: Tensor, reference_temperature: float) -> Distillation:
    """Cross-entropy -sum_j q(j | i) log p(j | i) of the anchors, image to text and text to image.

    p is the softmax of the student's similarities / temperature over the valid samples (the true pair among them), q that of the
    reference's / reference_temperature. As for the other sums, features and a few scalars are gathered and nothing else.
    """
    absent = ~batch.valid

    def logits(side: int, rows: slice) -> tuple[Tensor, Tensor]:
        student = batch.similarities(side, rows) / temperature
        teacher = batch.reference_similarities(side, rows) / reference_temperature
        return student.masked_fill_(absent, -math.inf), teacher.masked_fill_(absent, -math.inf)

    own = torch.stack(
        [
            torch.cat([torch.stack([part.logsumexp(1) for part in logits(side, rows)], 1) for rows in batch.chunks()])
            for side in range(2)
        ],
        1,
    )  # [b, side, (student, teacher)]: log-sum-exp
    everyone = distributed.gather(own)
    value, slope = own.new_zeros(2).unbind()
    gradient = []
    for side in range(2):
        parts = []
        for rows in batch.chunks():
            student, teacher = logits(side, rows)
            hidden = absent | ~batch.own_valid[rows, None]
            q = torch.exp(teacher - own[rows, side, 1:]).masked_fill_(hidden, 0)
            log_p = student - own[rows, side, :1]
            pull = (torch.exp(log_p) - q).masked_fill_(hidden, 0)
            value = value - (q * log_p.masked_fill(hidden, 0)).sum()
            slope = slope - (pull * student.masked_fill(hidden, 0)).sum()
            of_all = torch.exp(student - everyone[:, 1 - side, 0]) - torch.exp(teacher - everyone[:, 1 - side, 1])
            parts.append((pull + of_all.masked_fill_(hidden, 0)) @ batch.everything[1 - side])
        gradient.append(torch.cat(parts) * (batch.share / (2 * temperature)))
    value, slope = distributed.sum_over_ranks(torch.stack([value, slope])) / (2 * batch.count)
    return Distillation(value, (gradient[0], gradient[1]), slope / temperature)
