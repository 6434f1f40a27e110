"""What exists: namespaces, adapters, revisions, blobs, base models, jobs, merges, tokens."""
