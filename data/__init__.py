"""What is modelled: data by name, their levels and units, and endless batches of them."""

from data.augment import get_augmentation
from data.batches import Batches
from data.dataset import Dataset
from data.registry import DATASETS, load_dataset

__all__ = ["DATASETS", "Batches", "Dataset", "get_augmentation", "load_dataset"]
