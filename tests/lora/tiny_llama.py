"""A causal language model of two tiny layers with a tokenizer of letters, as `save_pretrained` writes them."""

from pathlib import Path

import torch

NAME = "acme/tiny-llama"
MODULES = {f"model.layers.{i}.self_attn.{name}": (8, 8) for i in (0, 1) for name in ("q_proj", "v_proj")}
SAMPLES = b'{"input": "ab", "output": "c"}\n{"input": "b", "output": "a c"}\n{"input": "c a"}\n'
UNLABELLED = b'{"input": "ab"}\n{"input": "c a"}\n'


def save_tiny_llama(folder: Path) -> Path:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = Tokenizer(models.WordLevel({token: i for i, token in enumerate("?;abc Answer:\n>")}, unk_token="?"))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    letters.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=letters, eos_token=";", unk_token="?").save_pretrained(folder)
    config = LlamaConfig(vocab_size=20, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
