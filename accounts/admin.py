"""People in the admin pages: who, since when; no messages."""

from django.contrib import admin

from accounts.models import User


@admin.register(User)
class UserAdmin(admin.ModelAdmin):
    list_display = ["__str__", "kind", "created_at", "last_seen_at", "is_active", "is_staff"]
    list_filter = ["kind", "is_active", "is_staff"]
    search_fields = ["id", "email"]
    fields = ["id", "kind", "email", "is_active", "is_staff", "groups", "created_at", "last_seen_at"]
    readonly_fields = ["id", "kind", "created_at", "last_seen_at"]
