"""Writes lora/hybrid/default.safetensors: `python -m bench.hybrid_default`, a minute on one core.

The version of the hybrid space that answers from the first expert on: fitted to the background texts alone, with the
default encoder. To be run again when the features, the background or that encoder change.
"""

import os
from functools import partial

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

import django
import numpy as np

from lora.array_file import array_file
from lora.hybrid.background import load_background, load_far
from lora.hybrid.default import ENCODER, FILE, load_default
from lora.hybrid.fitting import Background, fit


def main() -> None:
    django.setup()
    from retrieval.encoders import find_encoder
    from retrieval.hybrid import encoded_texts

    encoder = find_encoder("")
    tasks = [task.texts for task in load_background()]
    space = fit(Background.encoded(tasks, [kind.texts for kind in load_far()], partial(encoded_texts, encoder)))
    arrays = space.to_arrays()
    # Half the bytes; what rounding moves is far below what two samples of a task differ by.
    arrays["whitening.basis"] = arrays["whitening.basis"].astype(np.float16)
    for channel in ("chars", "edges"):
        arrays[f"{channel}.frequencies"] = arrays[f"{channel}.frequencies"].astype(np.uint16)
    FILE.write_bytes(array_file(arrays, {ENCODER: encoder.space_id}))
    written = load_default(encoder.space_id)
    print(f"{written.space_id(encoder.space_id)}: {FILE.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
