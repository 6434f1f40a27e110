from django.apps import AppConfig


class SiteConfig(AppConfig):
    name = "config"

    def ready(self) -> None:
        # Registers the checks of `manage.py check --deploy`.
        from config import checks  # noqa: F401, PLC0415
