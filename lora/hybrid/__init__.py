"""The hybrid router's numerics: text and surface features under one shared, frozen whitening. numpy only."""
