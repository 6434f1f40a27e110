"""Spaces, the prototypes that live in them, and the snapshots of their index."""

from django.db import models
from django.db.models import Q

from registry.models.adapters import HEX_64


class Space(models.Model):
    """An embedding space: vectors of two spaces are never compared."""

    # "<encoder>@<first digits of revision>": what answers and files call it.
    id = models.CharField(max_length=120, primary_key=True)
    encoder = models.CharField(max_length=100)
    # sha256 over the model's files, so that a model that changes under its name is another space.
    revision = models.CharField(max_length=64)
    pooling = models.CharField(max_length=40)
    prefix = models.TextField(blank=True)
    dim = models.PositiveIntegerField()
    max_tokens = models.PositiveIntegerField()
    normalised = models.BooleanField(default=True)
    # What ENCODER_MODEL says where this is its space: how the encoder is found again once another is configured.
    model = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(revision__regex=HEX_64), name="space_revision_is_a_sha256"),
            models.CheckConstraint(condition=Q(dim__gte=1), name="space_has_a_dimension"),
        ]

    def __str__(self) -> str:
        return self.id


class ServedSpace(models.Model):
    """One row: the space that answers queries, and the encoder that is to."""

    # Null until there are vectors.
    space = models.ForeignKey(Space, null=True, on_delete=models.PROTECT, related_name="+")
    # ENCODER_MODEL of the worker that started last, and the id of its space, which may have no row yet.
    wanted_model = models.TextField(blank=True)
    wanted = models.CharField(max_length=120)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="one_space_is_served")]

    def __str__(self) -> str:
        return f"{self.space_id}, wanted {self.wanted}"


class Prototype(models.Model):
    """The vectors that stand for a revision: rows of a text space, or one file with a vector per module."""

    revision = models.ForeignKey("registry.Revision", on_delete=models.CASCADE, related_name="prototypes")
    kind = models.CharField(max_length=40)
    space = models.ForeignKey(Space, null=True, on_delete=models.PROTECT, related_name="prototypes")
    count = models.PositiveIntegerField()
    dim = models.PositiveIntegerField()
    # (count, dim) float32, little-endian, row after row, each of length 1.
    vectors = models.BinaryField(null=True)
    blob = models.ForeignKey("registry.Blob", null=True, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["kind", "id"]
        constraints = [
            models.UniqueConstraint(
                fields=["revision", "kind", "space"],
                condition=Q(space__isnull=False),
                name="a_revision_has_a_kind_once_in_a_space",
            ),
            models.UniqueConstraint(
                fields=["revision", "kind"],
                condition=Q(space__isnull=True),
                name="a_revision_has_a_module_kind_once",
            ),
            models.CheckConstraint(
                condition=Q(space__isnull=False, vectors__isnull=False, blob__isnull=True)
                | Q(space__isnull=True, vectors__isnull=True, blob__isnull=False),
                name="prototype_is_rows_of_a_space_or_a_blob",
            ),
            models.CheckConstraint(condition=Q(count__gte=1, dim__gte=1), name="prototype_is_not_empty"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} of revision {self.revision_id}"


class DeltaSketch(models.Model):
    """A random projection of the whole ΔW of a revision: what is alike is found without reading every file."""

    revision = models.OneToOneField(
        "registry.Revision", on_delete=models.CASCADE, primary_key=True, related_name="delta_sketch"
    )
    # (dim,) float32, little-endian, not normalised.
    vector = models.BinaryField()

    def __str__(self) -> str:
        return f"sketch of revision {self.revision_id}"


class IndexSnapshot(models.Model):
    """The manifest of an immutable index file. The newest whose file is sound is served."""

    space = models.ForeignKey(Space, on_delete=models.PROTECT, related_name="snapshots")
    format = models.PositiveIntegerField()
    count = models.PositiveIntegerField()
    dim = models.PositiveIntegerField()
    # Of the file, which is named by it.
    sha256 = models.CharField(max_length=64)
    # The last change that the file has seen; what came later is the tail.
    change_seq = models.BigIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.CheckConstraint(condition=Q(sha256__regex=HEX_64), name="snapshot_is_named_by_its_sha256"),
        ]

    def __str__(self) -> str:
        return f"{self.count} vectors of {self.space_id}"
