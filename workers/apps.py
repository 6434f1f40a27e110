from django.apps import AppConfig


class WorkersConfig(AppConfig):
    name = "workers"

    def ready(self) -> None:
        # Connects the worker's signals; in other processes they never fire.
        from workers import sweeper  # noqa: F401, PLC0415 - models are not loaded before ready()
