"""``python -m vademecum``."""

from __future__ import annotations

import sys

from vademecum.cli import main

sys.exit(main())
