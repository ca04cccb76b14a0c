"""Rows in fewer bits: the mix over codes against the mix over fp32 rows and against decoding first; encoding speed."""

from __future__ import annotations

import argparse

import torch
from common import file_result, interleaved, ratio, zipf_ids

from vademecum.lookup import Lookup
from vademecum.ops import codes
from vademecum.ops.codes import FORMATS, Format
from vademecum.ops.mix import mix_slots

TOKENS, VOCABULARY, HEADS, DIM = 8192, 4096, 4, 64


def measured(form: Format, slots: int, tokens: int, rounds: int, device: str) -> dict[str, object]:
    ids = zipf_ids(tokens, VOCABULARY).to(device)
    lookup = Lookup.of(ids.view(1, -1))
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(len(lookup.unique), slots, HEADS * DIM, generator=generator)
    gates = torch.rand(tokens, HEADS, slots, generator=generator).to(device)
    coded = codes.encode(rows, form).to(device)
    wide = rows.view(-1, slots, HEADS, DIM).to(device)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    with torch.no_grad():
        taken = interleaved(
            {
                "codes": lambda: codes.mix_codes(gates, coded, form, lookup, DIM),
                "rows": lambda: mix_slots(gates, wide, lookup),
                "decode, then rows": lambda: mix_slots(
                    gates, codes.decode(coded, form, slots, HEADS * DIM).view_as(wide), lookup
                ),
                "encode": lambda: codes.encode(rows, form),
            },
            rounds=rounds,
            wait=wait,
        )
    return {
        "distinct": len(lookup.unique),
        "bytes over fp32": coded.nbytes / wide.nbytes,
        "speed over rows in fp32": ratio(taken, "codes", "rows"),
        "speed over decoding first": ratio(taken, "codes", "decode, then rows"),
        "million values encoded per second": rows.numel() / min(taken["encode"]) / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--no-file", action="store_true", help="print, and write no result")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = {
        f"{form.name}, {slots} slots, {tokens} tokens": measured(form, slots, tokens, given.rounds, device)
        for form in FORMATS.values()
        if form.bits
        for slots, tokens in ((6, TOKENS), (24, TOKENS), (8, 1))
    }
    if given.no_file:
        for name, one in found.items():
            print(name, one)
    else:
        file_result("compression", found)


if __name__ == "__main__":
    main()
