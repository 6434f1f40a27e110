"""Running a base model with adapters on top: what data-driven merges and weight searches ask of it.

The base comes as a torch module that somebody else has loaded; nothing here knows where models are found.
"""
