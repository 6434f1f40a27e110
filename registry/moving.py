"""Copy blobs between the folder and the bucket: verified on both sides, nothing removed."""

from registry.errors import BlobDamaged
from registry.models import Blob
from registry.storage import local_path, store
from registry.stores.base import sha256_of
from registry.stores.files import FileStore


def copy_into_bucket(blob: Blob, files: FileStore) -> bool:
    """From a folder into the configured store. Returns: False where it was there. Raises: BlobDamaged: either is."""
    if store().size(blob.sha256) == blob.size_bytes:
        return False
    path = files.local(blob.sha256)
    if not path.exists() or sha256_of(path) != blob.sha256:
        raise BlobDamaged(f"{path} is missing or has another digest")
    # A bucket only reads the file.
    store().put(path, blob.sha256)
    return True


def copy_out_of_bucket(blob: Blob, files: FileStore) -> bool:
    """From the configured store into a folder. Returns: False where it was there. Raises: BlobDamaged: either is."""
    if files.size(blob.sha256) == blob.size_bytes:
        return False
    with local_path(blob) as path:
        files.put(path, blob.sha256)
    return True
