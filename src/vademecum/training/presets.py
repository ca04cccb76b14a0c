"""Small hosts to train from scratch: what each Transformers family calls its sizes (data), and one dial for all."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, cast

from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

HEAD_DIM = 32

_USUAL_NAMES = MappingProxyType(
    {
        "layers": "num_hidden_layers",
        "hidden": "hidden_size",
        "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads",
        "ffn": "intermediate_size",
        "length": "max_position_embeddings",
    }
)
_GPT2_NAMES = MappingProxyType(
    {"layers": "n_layer", "hidden": "n_embd", "heads": "n_head", "ffn": "n_inner", "length": "n_positions"}
)
_NO_SPECIAL_IDS = MappingProxyType({"bos_token_id": None, "eos_token_id": None, "pad_token_id": None})


def _names(**changes: str | None) -> Mapping[str, str]:
    """The usual names with ``changes``; None takes one away."""
    return MappingProxyType({what: name for what, name in {**_USUAL_NAMES, **changes}.items() if name is not None})


# Queries and keys are half rotary; the latent is half as wide as the hidden state, so it splits evenly by head.
_LATENT = MappingProxyType(
    {
        "q_lora_rank": None,
        "qk_nope_head_dim": HEAD_DIM // 2,
        "qk_rope_head_dim": HEAD_DIM // 2,
        "v_head_dim": HEAD_DIM,
    }
)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One family of hosts.

    Attributes:
        model_type: the family's name in Transformers.
        gated: whether the feed-forward has a gate: its width is then 8/3 of the hidden one, else 4 times.
        names: what the family's config calls each size; a size it has no name for is left out.
        per_size: config entries that grow with the dial, as multiples of it.
        fixed: config entries that are the same at every size.
        active: feed-forwards that a token visits in a layer, shared experts included. Each has this part of the
            feed-forward's width, so that a mixture of the family's own costs a token what the dense preset costs.
    """

    model_type: str
    gated: bool = True
    names: Mapping[str, str] = field(default_factory=lambda: _USUAL_NAMES)
    per_size: Mapping[str, int] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    active: int = 1

    def ffn_width(self, hidden: int) -> int:
        """Width of the feed-forward: 8/3 of ``hidden`` rounded up to 32 where it is gated, 4 times where it is not."""
        return 32 * -(-8 * hidden // (3 * 32)) if self.gated else 4 * hidden


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "qwen3": Preset(model_type="qwen3", fixed={"head_dim": HEAD_DIM}),
        "llama": Preset(model_type="llama", fixed={"head_dim": HEAD_DIM}),
        "gpt2": Preset(
            model_type="gpt2",
            gated=False,
            names=_GPT2_NAMES,
            fixed={"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
        ),
        "olmo2": Preset(model_type="olmo2"),
        "nanochat": Preset(model_type="nanochat", gated=False, fixed={"head_dim": HEAD_DIM}),
        "deepseek_v3": Preset(
            model_type="deepseek_v3",
            per_size={"kv_lora_rank": HEAD_DIM // 2, "first_k_dense_replace": 1},
            fixed=_LATENT,
        ),
        # Three routed experts of 16 and a shared one, all of a quarter of the width. The scale over three weights that
        # sum to 1 makes routed and shared experts add up as the quarters of one feed-forward would.
        "deepseek_v3_moe": Preset(
            model_type="deepseek_v3",
            names=_names(expert_ffn="moe_intermediate_size"),
            per_size={"kv_lora_rank": HEAD_DIM // 2},
            fixed={
                **_LATENT,
                "first_k_dense_replace": 0,
                "n_routed_experts": 16,
                "n_shared_experts": 1,
                "num_experts_per_tok": 3,
                "n_group": 1,
                "topk_group": 1,
                "routed_scaling_factor": 3.0,
            },
            active=4,
        ),
        "mixtral": Preset(
            model_type="mixtral",
            names=_names(ffn=None, expert_ffn="intermediate_size"),
            fixed={"head_dim": HEAD_DIM, "num_local_experts": 8, "num_experts_per_tok": 2},
            active=2,
        ),
        "olmoe": Preset(
            model_type="olmoe",
            names=_names(ffn=None, expert_ffn="intermediate_size"),
            fixed={"num_experts": 16, "num_experts_per_tok": 4},
            active=4,
        ),
        "qwen3_moe": Preset(
            model_type="qwen3_moe",
            names=_names(expert_ffn="moe_intermediate_size"),
            fixed={"head_dim": HEAD_DIM, "num_experts": 16, "num_experts_per_tok": 4, "norm_topk_prob": True},
            active=4,
        ),
    }
)
"""Hosts by name; ``qwen3`` is the default everywhere.

``deepseek_v3`` has latent attention. The last four are mixtures of experts of their family's own, with the family's
routing, and they **train unbalanced**: Transformers never moves DeepSeek's ``e_score_correction_bias``, and adds the
others' auxiliary loss only where router logits are asked for, and then to the evaluated loss too. A mixture that is
balanced in training is a dense preset with ``vm.MoE`` attached.
"""


def find(name: str) -> Preset:
    """The preset called ``name``; an unknown name is a ValueError that suggests the nearest."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0)[0]
        raise ValueError(
            f"{name!r} is neither a host preset nor a model folder; did you mean {near!r}? "
            f"Presets are {', '.join(PRESETS)}."
        )
    return PRESETS[name]


def require(name: str, **sizes: int | None) -> Preset:
    """The preset called ``name``; a ValueError as :func:`find` gives, or for one of ``sizes`` that is below 1."""
    preset = find(name)
    for what, value in sizes.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{what}={value!r} was given; expected a whole number of 1 or more.")
    return preset


def build_host(name: str, *, size: int, vocab_size: int, length: int, ffn_width: int | None = None) -> PreTrainedModel:
    """Build a host from torch's current random state, without a network.

    Size n means n layers, n heads of 32 and a hidden width of 32 n, with as many key-value heads as heads. The
    head is not tied to the embedding: a tied host would gain from any memory merely by getting a free input table.

    Args:
        name: one of :data:`PRESETS`.
        size: the dial, 1 or more.
        vocab_size: rows of the embedding.
        length: longest sequence, in tokens.
        ffn_width: width of the feed-forward where it shall not be the preset's own; experts share it.

    Raises:
        ValueError: an unknown preset or a size below 1.
    """
    preset = require(name, size=size, vocab_size=vocab_size, length=length, ffn_width=ffn_width)
    hidden = HEAD_DIM * size
    ffn = ffn_width if ffn_width is not None else preset.ffn_width(hidden)
    sizes = {
        "layers": size,
        "hidden": hidden,
        "heads": size,
        "kv_heads": size,
        "ffn": ffn,
        "expert_ffn": max(1, ffn // preset.active),
        "length": length,
    }
    config = AutoConfig.for_model(
        preset.model_type,
        vocab_size=vocab_size,
        tie_word_embeddings=False,
        **_NO_SPECIAL_IDS,
        **{preset.names[what]: value for what, value in sizes.items() if what in preset.names},
        **{what: multiple * size for what, multiple in preset.per_size.items()},
        **preset.fixed,
    )
    return cast(PreTrainedModel, AutoModelForCausalLM.from_config(config))  # type: ignore[no-untyped-call]
