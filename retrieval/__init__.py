"""Which adapters fit a query: encoders, prototypes, the index, and the REST that needs them."""
