"""The arms of the study ``memory``, as data: a new kind is one more line of the table.

Tables are sized so that they hold about as many values on the study's small hosts, as far as a kind has a size to
choose. Where a kind has a published place (in the feed-forward's stead, in the last third of the layers), that is where
it stands here.
"""

from __future__ import annotations

from vademecum.compare.arms import Arm

DENSE = "dense"


def _arm(spec: str, note: str, name: str | None = None) -> Arm:
    """An arm of one kind, as ``vm.kinds.parse`` reads it, called like the kind where it has no name of its own."""
    return Arm(name=name or spec.partition(":")[0], kinds=(spec,), note=note)


ARMS: tuple[Arm, ...] = (
    Arm(name=DENSE, note="the host alone"),
    _arm("move:slots=4", "4 values per token id, one table for all layers, in the value stream"),
    _arm("lave", "a value per token id, a table per layer, in the value stream"),
    _arm("bank_of_values:layers=-1", "values looked up by token id in the last layer, without a value projection"),
    _arm("memory_attention", "values looked up by token id beside keys, in all layers"),
    _arm("token_ffn:layers=1", "a row per token id in the place of the second layer's up-projection"),
    _arm("ngram:layers=1,rows=8192", "hashed 2- and 3-grams, before the second layer"),
    _arm("lookup_experts:layers=1,experts=4,width=64", "4 experts of the token's embedding, beside the second layer"),
    _arm(
        "product_key:slots=9216,heads=4,topk=16,replace=True,bank_std=1.0",
        "9,216 slots by product keys, in the middle layer's feed-forward's place",
    ),
    _arm(
        "product_key:slots=9216,heads=4,topk=16,gate=True",
        "the same beside the feed-forward, behind a gate (Memory+)",
        name="product_key_gated",
    ),
    _arm("lattice:slots=8192,replace=True", "8,192 points of a lattice, in the middle layer's feed-forward's place"),
    _arm(
        "peer:experts=4096,heads=4,topk=16,replace=True,bank_std=1.0",
        "4,096 experts of one neuron, in the middle layer's feed-forward's place",
    ),
    _arm("moe:experts=16,top_k=4", "16 experts in every layer, 4 per token, each a quarter of the feed-forward"),
)
"""All arms. **Add a kind here**: one line, a spec and what it is."""

UNTRAINED = frozenset({"none", "entries"})
"""Kinds that are no arm: nothing, and facts that are written and not trained."""
