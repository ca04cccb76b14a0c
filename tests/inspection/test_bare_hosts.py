"""Models that were experts before anything was attached to them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM, Qwen3Config, Qwen3ForCausalLM

from vademecum.data import DomainTokens
from vademecum.inspection import commands

Texts = Callable[[Path], dict[str, DomainTokens]]


def test_a_transformers_model_with_experts_of_its_own_is_inspected_unchanged(
    run: Path, texts_of: Texts, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(run / "final")
    config = MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=3,
        num_experts_per_tok=2,
        max_position_embeddings=32,
    )
    MixtralForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    path = commands.inspect_experts(tmp_path / "model", texts=texts_of(run), echo=lambda _: None)
    with (path.parent / "domains.csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert {row["layer"] for row in found} == {"host.layers.0", "host.layers.1"}
    for layer in ("host.layers.0", "host.layers.1"):
        for domain in ("prose", "code", "digits"):
            shares = [float(row["share"]) for row in found if (row["layer"], row["domain"]) == (layer, domain)]
            assert len(shares) == 3
            assert sum(shares) == pytest.approx(2)
    assert "Windows of 32 tokens" in path.read_text("utf-8")
    with pytest.raises(ValueError, match="no slots"):
        commands.inspect_slots(tmp_path / "model", texts=texts_of(run))


def test_a_dense_model_is_told_what_to_train_before_any_text_is_fetched(run: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(run / "final")
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=32,
    )
    Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no experts; .* moe:experts=16,top_k=4"):
        commands.inspect_experts(tmp_path)
    with pytest.raises(ValueError, match=r"no slots; .* move:slots=4"):
        commands.inspect_slots(tmp_path)
