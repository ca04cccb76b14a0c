"""The tokenizer of a model's folder, or one line on why there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: What ``tokenizer.save_pretrained`` writes.
WHOLE, ABOUT = "tokenizer.json", "tokenizer_config.json"


def tokenizer_of(folder: Path) -> Any:
    """The tokenizer in ``folder``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it cannot be read.
    """
    from transformers import AutoTokenizer

    missing = [name for name in (WHOLE, ABOUT) if not (folder / name).is_file()]
    lacking = FileNotFoundError(
        f"{folder} holds a model without a tokenizer that can be read: {' and '.join(missing)} "
        f"{'is' if len(missing) == 1 else 'are'} missing; write the model's own tokenizer there with "
        f"tokenizer.save_pretrained."
    )
    try:
        found: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the libraries have no narrower one
        if missing:
            raise lacking from error
        why = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"the tokenizer in {folder} cannot be read ({why}); write the model's own there with "
            f"tokenizer.save_pretrained."
        ) from error
    # Some families make one of no words where there is no file, and read every text as empty.
    kept = [WHOLE, *getattr(found, "vocab_files_names", {}).values()]
    if len(kept) > 1 and not any((folder / name).is_file() for name in kept):
        raise lacking
    return found
