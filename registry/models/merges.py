"""Merges: recipes with resolved inputs, and the artefacts that equal recipes share."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q

SHOWN_PARENTS = 3


class MergeArtefact(models.Model):
    """The bytes that a recipe yields. One per recipe hash, whoever asked; rows of a caller are in `Merge`."""

    recipe_hash = models.CharField(max_length=64, primary_key=True)
    weights = models.ForeignKey("registry.Blob", on_delete=models.PROTECT, related_name="+")
    config = models.ForeignKey("registry.Blob", on_delete=models.PROTECT, related_name="+")
    report = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.recipe_hash


class Merge(models.Model):
    """One caller's merge. Its status is its newest job's."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="merges")
    method = models.CharField(max_length=40)
    params = models.JSONField(default=dict)
    # Where inputs are recipes themselves: the inputs as a tree, over the positions of `inputs`. Null where `inputs` say
    # it all.
    tree = models.JSONField(null=True)
    # As requested and completed with defaults: {name?, visibility, rank: {mode, value?}, dtype}.
    output = models.JSONField(default=dict)
    base_model = models.CharField(max_length=500, blank=True)
    recipe_hash = models.CharField(max_length=64)
    # recipe hash plus the output's name and visibility: what makes a second request the same request.
    request_hash = models.CharField(max_length=64)
    artefact = models.ForeignKey(MergeArtefact, null=True, on_delete=models.PROTECT, related_name="merges")
    revision = models.OneToOneField("registry.Revision", null=True, on_delete=models.SET_NULL, related_name="merge")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [models.UniqueConstraint(fields=["owner", "request_hash"], name="a_caller_asks_for_a_merge_once")]

    def __str__(self) -> str:
        return f"{self.method} {self.id}"

    @property
    def parents(self) -> str:
        """The first of its adapters in words: "ada/sql, bo/json, bo/yaml and 2 more"."""
        names = [item.revision.adapter.full_name for item in self.inputs.all()]
        more = f" and {len(names) - SHOWN_PARENTS} more" if len(names) > SHOWN_PARENTS else ""
        return ", ".join(names[:SHOWN_PARENTS]) + more

    @property
    def filename(self) -> str:
        """What its files are called, without a suffix: as the archive of the adapter `ada/both` is, `ada--both`."""
        name: str | None = self.output.get("name")
        return name.replace("/", "--") if name else f"merge-{self.pk}"


class MergeInput(models.Model):
    """An adapter that takes part in a merge, once; in a tree of recipes its weight is that of all its places."""

    merge = models.ForeignKey(Merge, on_delete=models.CASCADE, related_name="inputs")
    position = models.PositiveIntegerField()
    revision = models.ForeignKey("registry.Revision", on_delete=models.PROTECT, related_name="merge_inputs")
    weight = models.FloatField()

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(fields=["merge", "position"], name="a_position_is_filled_once"),
            models.UniqueConstraint(fields=["merge", "revision"], name="a_revision_is_merged_once"),
            models.CheckConstraint(condition=Q(position__gte=0), name="positions_count_from_zero"),
        ]

    def __str__(self) -> str:
        return f"{self.weight} x {self.revision}"
