"""Running a base model with adapters on top: what data-driven merges and weight searches ask of it.

Only `loading` knows what a model is read from; to the rest the base is a torch module that somebody else has loaded.
"""
