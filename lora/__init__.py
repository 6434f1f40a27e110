"""Pure numerics of Loradex: read, check, route and merge LoRA adapters.

Imports numpy, torch, safetensors and the standard library, and nothing of a web framework, a queue or the network.
`VERSION` is part of every recipe hash: raise it when a change alters the bytes of a merge or a prototype.
"""

VERSION = "1"
