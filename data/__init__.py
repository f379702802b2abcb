"""What is modelled: data by name or path, the units that models see them in, and endless batches of them."""

from score_sde.data.augment import get_augmentation
from score_sde.data.batches import Batch, Batches
from score_sde.data.dataset import Dataset
from score_sde.data.registry import DATASETS, arrays_dataset, load_dataset
from score_sde.data.units import Bins, Points, Standardised, Units

__all__ = [
    "DATASETS",
    "Batch",
    "Batches",
    "Bins",
    "Dataset",
    "Points",
    "Standardised",
    "Units",
    "arrays_dataset",
    "get_augmentation",
    "load_dataset",
]
