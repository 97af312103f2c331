from django.apps import AppConfig


class ProjectConfig(AppConfig):
    """Holds the commands that run the project as a whole."""

    name = "config"
