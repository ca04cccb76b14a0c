"""Tiny random-weight hosts of every supported family, built offline from their configs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers as tf
from torch import nn

from vademecum.memory.base import Need

VOCABULARY = 61
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "attn_implementation": "eager",
}
LLAMA: dict[str, Any] = {**COMMON, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}


def _deepseek(dense_layers: int) -> tf.PreTrainedModel:
    return tf.DeepseekV3ForCausalLM(
        tf.DeepseekV3Config(
            **COMMON,
            intermediate_size=48,
            moe_intermediate_size=16,
            num_key_value_heads=4,
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_group=1,
            topk_group=1,
            first_k_dense_replace=dense_layers,
            kv_lora_rank=16,
            q_lora_rank=24,
            qk_nope_head_dim=8,
            qk_rope_head_dim=4,
            v_head_dim=8,
        )
    )


HOSTS: Mapping[str, Callable[[], tf.PreTrainedModel]] = {
    "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**LLAMA)),
    "qwen2": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**{k: v for k, v in LLAMA.items() if k != "head_dim"})),
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**LLAMA)),
    "mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(**LLAMA)),
    "gemma3": lambda: tf.Gemma3ForCausalLM(
        tf.Gemma3TextConfig(**LLAMA, sliding_window=8, layer_types=["sliding_attention", "full_attention"])
    ),
    "olmo2": lambda: tf.Olmo2ForCausalLM(tf.Olmo2Config(**{k: v for k, v in LLAMA.items() if k != "head_dim"})),
    "gpt2": lambda: tf.GPT2LMHeadModel(
        tf.GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=64,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=1,
            eos_token_id=None,
            attn_implementation="eager",
        )
    ),
    "gpt_neox": lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**COMMON, intermediate_size=48)),
    "phi3": lambda: tf.Phi3ForCausalLM(
        tf.Phi3Config(**{k: v for k, v in LLAMA.items() if k != "head_dim"}, original_max_position_embeddings=64)
    ),
    "mixtral": lambda: tf.MixtralForCausalLM(tf.MixtralConfig(**LLAMA, num_local_experts=3, num_experts_per_tok=2)),
    "olmoe": lambda: tf.OlmoeForCausalLM(
        tf.OlmoeConfig(**{k: v for k, v in LLAMA.items() if k != "head_dim"}, num_experts=3, num_experts_per_tok=2)
    ),
    "qwen3_moe": lambda: tf.Qwen3MoeForCausalLM(
        tf.Qwen3MoeConfig(**LLAMA, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2)
    ),
    "nanochat": lambda: tf.NanoChatForCausalLM(
        tf.NanoChatConfig(**{k: v for k, v in LLAMA.items() if k != "head_dim"})
    ),
    "deepseek_v3": lambda: _deepseek(dense_layers=2),
    "deepseek_v3_sparse": lambda: _deepseek(dense_layers=0),
}
"""By name, how to build each host; weights come from torch's current seed."""

SPARSE = ("mixtral", "olmoe", "qwen3_moe", "deepseek_v3_sparse")
"""Hosts whose feed-forward is a mixture of experts already."""

LACKS: Mapping[str, frozenset[Need]] = {
    **dict.fromkeys(SPARSE, frozenset({Need.DENSE, Need.GATED})),
    **dict.fromkeys(("gpt2", "gpt_neox", "nanochat"), frozenset({Need.GATED})),
    "deepseek_v3": frozenset({Need.VALUES}),
    "deepseek_v3_sparse": frozenset(Need),
}
"""What hosts do not have that a kind may need."""


def host(name: str, seed: int = 0) -> tf.PreTrainedModel:
    """A freshly initialised host in evaluation mode."""
    torch.manual_seed(seed)
    return HOSTS[name]().eval()


def ids(batch: int = 2, length: int = 10, seed: int = 1) -> torch.Tensor:
    """Random token ids ``[batch, length]`` without the padding id."""
    return torch.randint(1, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def shake(model: nn.Module, seed: int = 2, std: float = 0.3) -> None:
    """Move every memory parameter off its start, so that equalities are not equalities of zeros."""
    import vademecum as vm

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in vm.memories(model).named().values():
            for parameter in module.parameters():
                parameter.add_(std * torch.randn(parameter.shape, generator=generator))
