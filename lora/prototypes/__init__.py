"""Prototype kinds: the vectors that stand for an adapter, one file per kind.

`space="module"`: one vector per module, from the weights. `space="text"`: rows of the encoder's space, from
sample texts that the caller has embedded.
"""

from lora.catalogue import Catalogue

PROTOTYPES = Catalogue("prototype", __name__)
