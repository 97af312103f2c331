"""Static files under hashed names, cached for ever, and of the third-party packages only what the pages load."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from typing import Any

from django.conf import settings
from django.contrib.staticfiles.finders import FileSystemFinder
from servestatic.storage import CompressedManifestStaticFilesStorage


class HashedModulesStorage(CompressedManifestStaticFilesStorage):  # type: ignore[misc]
    """Rewrites the imports between ES modules to the hashed names as well."""

    support_js_module_import_aggregation = True


class ChosenFilesFinder(FileSystemFinder):
    """Leaves out what VENDOR_FILES does not name: packages bring builds, maps and sources that nobody loads."""

    def list(self, ignore_patterns: Iterable[str] | None) -> Iterator[tuple[str, Any]]:
        for path, storage in super().list(ignore_patterns):
            name = f"{storage.prefix}/{path}" if storage.prefix else path
            if not name.startswith("vendor/") or any(fnmatch(name, pattern) for pattern in settings.VENDOR_FILES):
                yield path, storage
