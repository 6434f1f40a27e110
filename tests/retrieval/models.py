"""A second real encoder: a tiny BERT with random weights in a folder, as ENCODER_MODEL may name one."""

from pathlib import Path

import torch

from retrieval.encoders import find_encoder


def write_encoder(folder: Path, seed: int = 0, width: int = 32) -> Path:
    """A sentence-transformers model of one layer, with the default encoder's tokenizer. Returns: its folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(find_encoder("").folder, local_files_only=True)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=128,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    words = Transformer(str(folder / "bert"), max_seq_length=64)
    SentenceTransformer(modules=[words, Pooling(width)], device="cpu").save(str(folder / "model"))
    return folder / "model"
