"""People. One User row owns everything a person has, a guest's row as much as an account's."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.db import models
from django.utils import timezone


class UserManager(BaseUserManager["User"]):
    def create_superuser(self, email: str, password: str, **fields: Any) -> User:
        """What `manage.py createsuperuser` calls: an account for the admin pages."""
        fields = {"kind": User.Kind.ACCOUNT, "is_staff": True, "is_superuser": True} | fields
        user = self.model(email=self.normalize_email(email), **fields)
        user.set_password(password)
        user.save()
        return user

    def guests_unseen_since(self, moment: Any) -> models.QuerySet[User]:
        return self.filter(kind=User.Kind.GUEST, last_seen_at__lt=moment)


class User(AbstractBaseUser, PermissionsMixin):
    """A guest (no email, known by a session) or an account. The database refuses an account without an email."""

    class Kind(models.TextChoices):
        GUEST = "guest"
        ACCOUNT = "account"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    kind = models.CharField(max_length=8, choices=Kind, default=Kind.GUEST)
    email = models.EmailField(unique=True, null=True, blank=True)
    is_staff = models.BooleanField(default=False)
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=timezone.now)
    last_seen_at = models.DateTimeField(default=timezone.now)

    objects = UserManager()
    USERNAME_FIELD = "email"

    class Meta:
        constraints = [
            models.CheckConstraint(
                name="account_has_email", condition=models.Q(kind="guest") | models.Q(email__isnull=False)
            )
        ]
        indexes = [models.Index(fields=["last_seen_at"], name="guest_last_seen", condition=models.Q(kind="guest"))]

    def __str__(self) -> str:
        return self.email or f"guest {self.id.hex[:8]}"

    def seen(self) -> None:
        """Note a visit; at most one write an hour. One query, or none."""
        now = timezone.now()
        if now - self.last_seen_at > timedelta(hours=1):
            User.objects.filter(pk=self.pk).update(last_seen_at=now)
