"""Fetches the weights of declared models and tells where they lie. No Django, and no torch in this process."""

from inference.weights.errors import Progress, WeightsError
from inference.weights.store import directory, is_ready, pull

__all__ = ["Progress", "WeightsError", "directory", "is_ready", "pull"]
