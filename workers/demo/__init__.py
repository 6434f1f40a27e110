"""What `manage.py demo` does: one journey through a real site, as a contributor would make it."""
