"""Compositions: trained gates over a set of experts, in immutable versions."""

from django.db import models
from django.db.models import Q

from registry.models.adapters import HEX_40, Adapter


class Composition(models.Model):
    """One version of the composition `owner/name`, named by its manifest's digest; the head is what the name means."""

    namespace = models.ForeignKey("registry.Namespace", on_delete=models.CASCADE, related_name="compositions")
    # As of adapters: `owner/name` as written and folded.
    full_name = models.CharField(max_length=200)
    key = models.CharField(max_length=200)
    commit = models.CharField(max_length=40)
    is_head = models.BooleanField(default=True)
    type = models.CharField(max_length=40)
    # Complete: with every default.
    params = models.JSONField(default=dict)
    base_model = models.CharField(max_length=500, blank=True)
    visibility = models.CharField(max_length=7, choices=Adapter.Visibility, default=Adapter.Visibility.PUBLIC)
    description = models.TextField(blank=True)
    # Where its gates are: [path].
    places = models.JSONField(default=list)
    # {steps, seed, losses} of gates that a worker has trained, else {}.
    training = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [
            models.UniqueConstraint(fields=["full_name", "commit"], name="a_commit_names_one_composition"),
            models.UniqueConstraint(fields=["key"], condition=Q(is_head=True), name="a_composition_has_one_head"),
            models.CheckConstraint(condition=Q(commit__regex=HEX_40), name="composition_commit_is_40_hex"),
        ]

    def __str__(self) -> str:
        return f"{self.full_name}@{self.commit}"


class CompositionExpert(models.Model):
    """An adapter of a composition, at the revision that its gates were made for."""

    composition = models.ForeignKey(Composition, on_delete=models.CASCADE, related_name="experts")
    position = models.PositiveIntegerField()
    revision = models.ForeignKey("registry.Revision", on_delete=models.PROTECT, related_name="+")

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(fields=["composition", "position"], name="a_place_in_a_composition_is_filled_once")
        ]

    def __str__(self) -> str:
        return f"{self.position} of {self.composition_id}"


class CompositionFile(models.Model):
    """A file of a composition beside its adapters'."""

    composition = models.ForeignKey(Composition, on_delete=models.CASCADE, related_name="files")
    path = models.CharField(max_length=100)
    blob = models.ForeignKey("registry.Blob", on_delete=models.PROTECT, related_name="+")

    class Meta:
        ordering = ["path"]
        constraints = [models.UniqueConstraint(fields=["composition", "path"], name="a_composition_has_a_path_once")]

    def __str__(self) -> str:
        return self.path
