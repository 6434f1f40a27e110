"""Static files under names that hold their digest, compressed, so that browsers keep them for ever."""

from whitenoise.storage import CompressedManifestStaticFilesStorage


class HashedFiles(CompressedManifestStaticFilesStorage):
    # A module imports its neighbours by their hashed names, too: a deploy never mixes old and new.
    support_js_module_import_aggregation = True
