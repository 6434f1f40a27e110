"""The middle layer of an encoder, beside its sentence embedding. Imports torch."""

from typing import Any

import torch
from sentence_transformers import SentenceTransformer


class _Middle(torch.nn.Module):
    """Sets the mean of the tokens' states after half of the layers behind the sentence embedding."""

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        sentence = features["sentence_embedding"]
        # A model without layers has nothing between the words and their meaning.
        middle = _mean_state(features) if "all_layer_embeddings" in features else sentence
        features["sentence_embedding"] = torch.cat([sentence, middle], dim=1).float()
        return features


def _mean_state(features: dict[str, Any]) -> torch.Tensor:
    layers = features["all_layer_embeddings"]
    states = layers[len(layers) // 2]
    is_token = features["attention_mask"].unsqueeze(2).to(states.dtype)
    return (states * is_token).sum(dim=1) / is_token.sum(dim=1)


def with_middle_layer(model: SentenceTransformer) -> SentenceTransformer:
    """Make a model return, for each text, its sentence embedding and the mean of its tokens' middle states behind it.

    Nothing is computed twice: the states are those on the way to the embedding.
    """
    transformer = getattr(model[0], "model", None)
    if transformer is not None:
        transformer.config.output_hidden_states = True
    model.append(_Middle())
    return model
