"""Bundles: archives for routing inside the model, and the experts in them."""

import uuid

from django.conf import settings
from django.db import models


class Bundle(models.Model):
    """One caller's archive for routing inside the model. Its status is its job's."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="bundles")
    router = models.CharField(max_length=40)
    # Complete: with every default.
    params = models.JSONField(default=dict)
    base_model = models.CharField(max_length=500, blank=True)
    # sha256 over router, params and revisions in order: what makes a second request the same request.
    request_hash = models.CharField(max_length=64)
    job = models.ForeignKey("registry.Job", null=True, on_delete=models.SET_NULL, related_name="+")
    warnings = models.JSONField(default=list)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(fields=["owner", "request_hash"], name="a_caller_asks_for_a_bundle_once")
        ]

    def __str__(self) -> str:
        return f"{self.router} {self.id}"


class BundleExpert(models.Model):
    """An adapter of a bundle."""

    bundle = models.ForeignKey(Bundle, on_delete=models.CASCADE, related_name="experts")
    position = models.PositiveIntegerField()
    revision = models.ForeignKey("registry.Revision", on_delete=models.PROTECT, related_name="+")

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(fields=["bundle", "position"], name="a_place_in_a_bundle_is_filled_once"),
            models.UniqueConstraint(fields=["bundle", "revision"], name="a_revision_is_bundled_once"),
        ]

    def __str__(self) -> str:
        return f"{self.position} of {self.bundle_id}"


class BundleFile(models.Model):
    """A file of a finished bundle. There are none before."""

    bundle = models.ForeignKey(Bundle, on_delete=models.CASCADE, related_name="files")
    path = models.CharField(max_length=300)
    blob = models.ForeignKey("registry.Blob", on_delete=models.PROTECT, related_name="+")

    class Meta:
        ordering = ["path"]
        constraints = [models.UniqueConstraint(fields=["bundle", "path"], name="a_bundle_has_a_path_once")]

    def __str__(self) -> str:
        return self.path
