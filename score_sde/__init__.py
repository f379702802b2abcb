"""Score-SDE from Python: the public names.

ds = score_sde.load_dataset(path="photos", image_size=32, num_channels=3)
ds.train, ds.test, ds.validation        uint8 (N, C, H, W) or float32 vectors (N, d), as training has them
"""

from data import load_dataset

__all__ = ["load_dataset"]
