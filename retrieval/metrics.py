"""What retrieval counts; see `registry.metrics`."""

from prometheus_client import Counter, Histogram

FAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)

ENCODE_SECONDS = Histogram(
    "loradex_encode_seconds", "Seconds of one pass of texts through the encoder.", buckets=(*FAST, 30)
)
ENCODED_TEXTS = Counter("loradex_encoded_texts_total", "Texts that went through the encoder.")
SEARCH_SECONDS = Histogram("loradex_search_seconds", "Seconds of the searches of one retrieval.", buckets=FAST)
