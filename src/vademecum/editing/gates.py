"""Gates that tell one question from all others, found without a gradient through the model.

What a text asks is plain to see in the hidden states of the upper layers at the token where the answer comes. In each
layer a logistic discriminant parts the tokens at which a fact is asked for from the other tokens that follow its
subject, as the host sees them; entries of one relation share it. Of whom it is asked a ridge regression tells, one for
each fact: it parts the tokens at which its subject is asked about from those at which another one is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Steps of the discriminant, its weight decay, and how much steeper than found a gate is made.
STEPS, DECAY, SHARPNESS = 200, 0.005, 2.0
#: The ridge, in units of a token's mean square; and half of the logits that lie between the means of the two sides.
RIDGE, STEEP = 0.05, 4.0
#: Where from the others' mean to a fact's own its gate is half open. What is asked of a fact later is much like what is
#: learned of it, while others come in words and with names that no list holds: they are met nearer to it than learned.
THRESHOLD = 0.75


def discriminant(asked: Tensor, other: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weights ``[L, d]`` and biases ``[L]`` of ``sigmoid(w x + b)``: near 1 where asked, near 0 elsewhere.

    Args:
        asked: ``[L, P, d]`` hidden states of tokens at which the answer comes, by layer.
        other: ``[L, N, d]`` of tokens at which it does not.
        weights: ``[N]`` how much each of those counts.
    """
    seen = torch.cat([asked, other], 1).float()
    scale = seen.std((1, 2), keepdim=True).clamp_min(1e-6)
    seen = seen / scale
    labels = torch.cat([torch.ones(asked.shape[1]), torch.zeros(other.shape[1])]).to(seen.device)
    # Both sides count the same, however many tokens there are of each.
    balance = torch.cat([torch.full((asked.shape[1],), 1.0 / asked.shape[1]), weights / weights.sum()])
    balance = (balance * len(labels) / 2).to(seen.device)
    weight = torch.zeros(seen.shape[0], seen.shape[2], device=seen.device, requires_grad=True)
    bias = torch.zeros(seen.shape[0], device=seen.device, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=0.02)
    with torch.enable_grad():
        for _ in range(STEPS):
            logits = torch.einsum("lnd,ld->ln", seen, weight) + bias[:, None]
            wrong = F.binary_cross_entropy_with_logits(
                logits, labels.expand_as(logits), weight=balance.expand_as(logits), reduction="none"
            ).mean(1)
            loss = (wrong + DECAY * weight.square().sum(1)).sum()
            weight.grad, bias.grad = torch.autograd.grad(loss, [weight, bias])
            optimizer.step()
    return SHARPNESS * weight.detach() / scale[:, :, 0], SHARPNESS * bias.detach()


def ridge(own: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Weights ``[L, d]`` and biases ``[L]`` of ``sigmoid(w x + b)``: near 1 at tokens ``own``, near 0 at ``others``.

    Solved in the space of the tokens, of which there are fewer than channels. Where one side has no token nothing can
    be told, and both are zero: the gate is 1 everywhere.

    Args:
        own: ``[L, P, d]`` hidden states, by layer.
        others: ``[L, N, d]``.
    """
    if not own.shape[1] * others.shape[1]:
        return own.new_zeros(own.shape[0], own.shape[2]), own.new_zeros(own.shape[0])
    seen = torch.cat([own, others], 1).float()
    middle = (own.float().mean(1, keepdim=True) + others.float().mean(1, keepdim=True)) / 2
    seen = seen - middle
    labels = torch.cat([torch.ones(own.shape[1]), -torch.ones(others.shape[1])]).to(seen.device)
    products = seen @ seen.mT
    strength = RIDGE * products.diagonal(dim1=-2, dim2=-1).mean(-1)
    eye = torch.eye(len(labels), device=seen.device)
    root = torch.linalg.cholesky(products + strength[:, None, None] * eye)
    found = torch.cholesky_solve(labels.expand(len(seen), -1)[..., None], root)[..., 0]
    weight = torch.einsum("ln,lnd->ld", found, seen)
    # A threshold by the two means alone: what each side has of examples does not move it.
    scores = torch.einsum("lnd,ld->ln", seen, weight)
    mine, theirs = scores[:, : own.shape[1]].mean(1), scores[:, own.shape[1] :].mean(1)
    apart = (mine - theirs).clamp_min(1e-6)
    slope = 2 * STEEP / apart
    weight = slope[:, None] * weight
    return weight, -(weight * middle[:, 0]).sum(1) - slope * (theirs + THRESHOLD * apart)
