"""Spaces, the prototypes that live in them, and the snapshots of their index."""

from django.db import models
from django.db.models import Q

from registry.models.adapters import HEX_64
from retrieval.bundle_models import Bundle, BundleExpert, BundleFile  # noqa: F401 - Django looks here
from retrieval.composition_models import (  # noqa: F401 - Django looks here
    Composition,
    CompositionExpert,
    CompositionFile,
)
from retrieval.outcome_models import Outcome, OutcomeCounter, Probe, ProbeVector  # noqa: F401 - Django looks here


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


class HybridVersion(models.Model):
    """A fitted version of the hybrid space over an encoder's space. The one put into service last answers."""

    space = models.OneToOneField(Space, primary_key=True, on_delete=models.CASCADE, related_name="hybrid")
    base = models.ForeignKey(Space, on_delete=models.PROTECT, related_name="hybrid_versions")
    # What was fitted: a safetensors file.
    blob = models.ForeignKey("registry.Blob", on_delete=models.PROTECT, related_name="+")
    # How many experts' samples the fit saw; once there are many more, another version is due.
    experts = models.PositiveIntegerField()
    # Null until every expert has a row in it.
    served_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-served_at"]

    def __str__(self) -> str:
        return self.space_id


class Prototype(models.Model):
    """The vectors that stand for a revision: rows of a text space, or one file with a vector per module."""

    revision = models.ForeignKey("registry.Revision", on_delete=models.CASCADE, related_name="prototypes")
    kind = models.CharField(max_length=40)
    space = models.ForeignKey(Space, null=True, on_delete=models.PROTECT, related_name="prototypes")
    count = models.PositiveIntegerField()
    dim = models.PositiveIntegerField()
    # (count, dim) float32, little-endian, row after row, each of length 1 where the space is normalised.
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


class DescribedText(models.Model):
    """What the vector of a description was made of: an adapter's text may be edited, and the vector is due again."""

    prototype = models.OneToOneField(Prototype, on_delete=models.CASCADE, primary_key=True, related_name="described")
    # Of the adapter's `search_text`, which has all that is embedded.
    sha256 = models.CharField(max_length=64)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(sha256__regex=HEX_64), name="described_text_is_a_sha256"),
        ]

    def __str__(self) -> str:
        return f"description of prototype {self.prototype_id}"


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
    """The manifest of an index that is never changed. The newest that is sound is served."""

    space = models.ForeignKey(Space, on_delete=models.PROTECT, related_name="snapshots")
    # What holds the vectors: "faiss" is a file, "milvus" a collection.
    engine = models.CharField(max_length=20, default="faiss")
    format = models.PositiveIntegerField()
    count = models.PositiveIntegerField()
    dim = models.PositiveIntegerField()
    # Of the file, which is named by it; of a collection, over the ids in it.
    sha256 = models.CharField(max_length=64)
    # Of a graph: how many candidates a search looks at, and the part of the ten best that it finds with them. Without
    # candidates the search is exact; then recall is that of the graph which was not good enough, if one was tried.
    candidates = models.PositiveIntegerField(null=True)
    recall = models.FloatField(null=True)
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


class Evaluation(models.Model):
    """What a suite says of one router, or of what routers are compared with."""

    class Measure(models.TextChoices):
        RETRIEVAL = "retrieval"
        ANSWERS = "answers"
        OUTCOMES = "outcomes"

    # sha256 over all that makes results comparable: the same evaluation again takes this one's place.
    key = models.CharField(max_length=64, unique=True)
    suite = models.CharField(max_length=200)
    # sha256 over the suite's content: suites of one name may differ.
    digest = models.CharField(max_length=64, db_index=True)
    measure = models.CharField(max_length=20, choices=Measure)
    subject = models.CharField(max_length=100)
    is_reference = models.BooleanField(default=False)
    params = models.JSONField(default=dict)
    # Samples, queries, space; of answers also the base model.
    setting = models.JSONField()
    figures = models.JSONField()
    created_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(digest__regex=HEX_64), name="suite_digest_is_a_sha256"),
        ]

    def __str__(self) -> str:
        return f"{self.measure} of {self.subject} on {self.suite}"
