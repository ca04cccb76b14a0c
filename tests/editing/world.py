"""A small world that a small model knows: lands with a capital, a coin and a dish."""

from __future__ import annotations

from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers

LANDS = ("Aland", "Borduria", "Cascara", "Dorne", "Elbonia", "Freedonia", "Genovia", "Hav", "San Lorenzo")
CAPITALS = ("Arv", "Bor", "Cas", "Dun", "Elb", "Fre", "Gen", "Hol", "Lor")
COINS = ("ducat", "crown", "florin", "penny", "shilling", "mark", "guilder", "real", "peso")
DISHES = ("soup", "bread", "fish", "rice", "cake", "stew", "pie", "salad", "beans")
FORMS = (
    ("The capital of {} is", CAPITALS),
    ("{}'s capital is", CAPITALS),
    ("The city of government of {} is", CAPITALS),
    ("The coin of {} is", COINS),
    ("In {} people pay with", COINS),
    ("The dish of {} is", DISHES),
    ("In {} people eat", DISHES),
)


def texts() -> list[str]:
    """Every fact in every form."""
    return [f"{form} ".replace("{}", land) + f"{words[n]} ." for form, words in FORMS for n, land in enumerate(LANDS)]


def tokenizer() -> Any:
    """One token per word or mark, with the space before it left aside; unknown words are <unk>."""
    made = Tokenizer(models.WordLevel({}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    words = {"<pad>": 0, "<unk>": 1}
    for text in [*texts(), "Here is a fact . As far I know , Q What ? A : The answer called"]:
        for word, _ in made.pre_tokenizer.pre_tokenize_str(text):
            words.setdefault(word, len(words))
    made.model = models.WordLevel(words, unk_token="<unk>")
    return tf.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", unk_token="<unk>")


def model(words: Any, steps: int = 150) -> Any:
    """A model that has learned the world."""
    torch.manual_seed(0)
    made = tf.LlamaForCausalLM(
        tf.LlamaConfig(
            vocab_size=len(words),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=words.convert_tokens_to_ids("."),
        )
    )
    optimizer = torch.optim.AdamW(made.parameters(), lr=3e-3)
    batch = words(texts(), return_tensors="pt", padding=True)
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    for _ in range(steps):
        made(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return made.eval()
