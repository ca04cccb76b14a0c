"""Help texts that several verbs share."""

from __future__ import annotations

HOST = (
    "Host preset (qwen3, llama, gpt2, olmo2, nanochat, deepseek_v3 with latent attention; with experts of their own "
    "deepseek_v3_moe, mixtral, olmoe, qwen3_moe)"
)
SIZE = "Size dial: n layers, hidden width 32 n."
DATA = "Text: one that 'vademecum data' lists, such as factbook or domains, or your own .txt, .jsonl or folder."
DEVICE = "Such as cpu or cuda; the GPU where there is one."
BANK = "Where a bank's rows live: device, ram, disk, or auto, the first with room; what is learned is the same."
BANK_CAP = "Memory that rows of a bank on disk may take, such as 4GB; 1 GiB where not given."
