"""What is modelled: data by name, their levels and units, and endless batches of them."""

from score_sde.data.augment import get_augmentation
from score_sde.data.batches import Batch, Batches
from score_sde.data.dataset import Dataset
from score_sde.data.registry import DATASETS, load_dataset

__all__ = ["DATASETS", "Batch", "Batches", "Dataset", "get_augmentation", "load_dataset"]
