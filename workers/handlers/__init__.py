"""One file per job kind: `handle(work)` loads rows, calls `lora`, stores the result."""
