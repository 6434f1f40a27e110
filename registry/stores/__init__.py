"""Where blobs are kept: in a folder, or in an S3 bucket. `registry.storage` is what the rest of Loradex calls."""
