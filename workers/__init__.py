"""Background work. Nothing imports this package."""
