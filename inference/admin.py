"""Generations in the admin pages: states, counts and timings, never what was said."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from inference.models import Generation

SAID = {"prompt", "text", "reasoning", "token_ids", "request_hash"}


@admin.register(Generation)
class GenerationAdmin(admin.ModelAdmin):
    list_display = [
        "id",
        "model",
        "door",
        "state",
        "created_at",
        "ttft_ms",
        "completion_tokens",
        "error_code",
    ]
    list_filter = ["state", "model", "door", "error_code"]
    search_fields = ["id", "request_id", "worker"]
    date_hierarchy = "created_at"
    show_full_result_count = False

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return [field.name for field in Generation._meta.fields if field.name not in SAID]

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).defer(*SAID)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
