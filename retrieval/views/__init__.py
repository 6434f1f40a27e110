"""The pages that show prototypes, or ask for experts and merges."""
