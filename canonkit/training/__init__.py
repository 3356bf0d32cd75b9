"""Training: settings, what is prepared, one step, checkpoints, a run's folder, the loop and its two feeders."""

from canonkit.training.checkpoint import load_averaged, read_counters
from canonkit.training.folder import is_training, locked_folder, read_card, read_log, write_card
from canonkit.training.loop import is_finished, train
from canonkit.training.machine import best_device, fast_dtype, hardware, set_precision
from canonkit.training.prepared import Prepared
from canonkit.training.settings import Settings
from canonkit.training.step import State, one_step
from canonkit.training.validate import validate

__all__ = [
    "Prepared",
    "Settings",
    "State",
    "best_device",
    "fast_dtype",
    "hardware",
    "is_finished",
    "is_training",
    "load_averaged",
    "locked_folder",
    "one_step",
    "read_card",
    "read_counters",
    "read_log",
    "set_precision",
    "train",
    "validate",
    "write_card",
]
