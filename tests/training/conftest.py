"""Lets the tests of this room, and the processes they start, import ``tiny_runs``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
