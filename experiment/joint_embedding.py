"""Joint embeddings of pictures and captions: from a configuration to the model, and what is not for them."""

from __future__ import annotations

from typing import Any

import torch
from ml_collections import ConfigDict

from score_sde.common.errors import UserError, naming
from score_sde.data import Dataset
from score_sde.data.captions import CAPTION, Words
from score_sde.experiment.networks import JOINT_EMBEDDING
from score_sde.models.joint_embedding import JointEmbedding
from score_sde.models.layers.text import Text

# What a joint embedding has no use for, with the value that says so.
_NOT_ASKED: dict[str, Any] = {
    "data.distortion": 0.0,
    "data.missing": False,
    "data.masks": "",
    "data.text_encoder": None,
    "data.low_resolution": None,
    "data.edges": None,
    "data.autoencoder": None,
    "data.embedding": None,
    "data.embed_condition": None,
    "model.class_conditional": False,
    "model.flow_map": False,
    "training.start_from": None,
    "training.teacher": None,
    "training.compile": False,
}


def make_joint_embedding(config: ConfigDict, dataset: Dataset) -> JointEmbedding:
    """Make the joint embedding of the section `model` for these pictures and captions, with weights of the seed.

    Raises:
        UserError: the data are no pictures with captions, or cannot be halved as often.
    """
    words, model = dataset.condition_units.get(CAPTION), config.model
    if not dataset.is_image or not isinstance(words, Words):
        raise UserError(f"a joint embedding is of pictures and their captions, and {dataset.name} has not both")
    torch.manual_seed(config.seed)
    channels, *size = dataset.shape
    with naming("section model"):
        return JointEmbedding(
            size,
            channels,
            Text(words.count, words.length),
            model.embedding_size,
            channels=model.channels,
            channel_multipliers=model.channel_multipliers,
            num_blocks=model.num_blocks,
            dropout=model.dropout,
        )


def check_joint_embedding(config: ConfigDict, mode: str) -> None:
    """See that a joint embedding is asked for nothing that only score models have.

    Raises:
        UserError: it is; the line names it.
    """
    if config.model.network != JOINT_EMBEDDING:
        return
    if mode != "train":
        raise UserError(
            f"this is a joint embedding, which has no mode {mode}: it embeds, run.embed(x), and others make use of it, "
            "data.embedding and data.embed_condition"
        )
    for key, usual in _NOT_ASKED.items():
        section, name = key.split(".")
        if config[section][name] != usual:
            raise UserError(f"{key} is nothing for a joint embedding: --config.{key}={usual}")
