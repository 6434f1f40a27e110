"""What a file that should be safetensors really is, and how to convert it."""

from lora.errors import Problem

CONVERT = (
    'Convert it on your own machine: python -c "import torch, safetensors.torch; safetensors.torch.save_file('
    "torch.load('adapter_model.bin', weights_only=True), 'adapter_model.safetensors')\" and send the .safetensors file."
)
PICKLE = "It can run code when it is opened, so it is never read here. " + CONVERT
UNPACK = "Send the adapter_model.safetensors inside it, not packed."

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

_TAR_MAGIC_AT = 257
SNIFF_BYTES = 512  # as far as a tar's magic reaches

_SIGNATURES = [
    (b"PK\x03\x04", "pickle", "This is a zip archive, most likely a PyTorch .bin file. " + PICKLE),
    (b"\x1f\x8b", "archive", "This is gzip. " + UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "archive", "This is a 7z archive. " + UNPACK),
    (
        b"version https://git-lfs",
        "lfs_pointer",
        "This is a git-LFS pointer. Run `git lfs pull` and send the file.",
    ),
    (b"GGUF", "wrong_format", "This is GGUF. Send the PEFT adapter that it was converted from."),
    (b"\x93NUMPY", "wrong_format", "This is a NumPy file. Save the tensors with safetensors."),
    (
        b"<",
        "wrong_format",
        "This is HTML or XML, likely a page saved instead of the file. Download the file.",
    ),
    (b"{", "wrong_format", "This is JSON. Are adapter_config.json and adapter_model.safetensors swapped?"),
]


def recognise(start: bytes, where: str) -> Problem | None:
    """Return the problem that names the real format of a file that is not safetensors, or None if it has no known one.

    Args:
        start: up to `SNIFF_BYTES` from the beginning of the file.
    """
    if start[_TAR_MAGIC_AT:].startswith(b"ustar"):
        return Problem("archive", where, "This is a tar archive. " + UNPACK)
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return Problem("pickle", where, "This is a Python pickle. " + PICKLE)
    text = start.lstrip()
    for signature, code, message in _SIGNATURES:
        if start.startswith(signature) or (signature in (b"<", b"{") and text.startswith(signature)):
            return Problem(code, where, message)
    return None
