"""Training: presets of small hosts, a recipe, one visible loop, and checkpoints that resume bit for bit."""

from vademecum.training import presets
from vademecum.training.checkpoint import CheckpointDamaged, OtherArchitecture
from vademecum.training.interrupt import Interrupted
from vademecum.training.loop import Diverged, Run
from vademecum.training.recipe import Recipe

__all__ = ["CheckpointDamaged", "Diverged", "Interrupted", "OtherArchitecture", "Recipe", "Run", "presets"]
