"""Adapters, their immutable revisions over content-addressed blobs, and the base models they bind to."""

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

HEX_40 = r"^[0-9a-f]{40}$"
HEX_64 = r"^[0-9a-f]{64}$"


class BaseModel(models.Model):
    """A model that adapters are trained on, known by the names and shapes of its linear modules."""

    name = models.CharField(max_length=200, unique=True)
    revision = models.CharField(max_length=64, blank=True)
    # {module path: [d_out, d_in]} in the convention of nn.Linear.
    modules = models.JSONField()
    aliases = models.JSONField(default=list)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Blob(models.Model):
    """File content in the store, named by its digest. Never overwritten."""

    sha256 = models.CharField(max_length=64, primary_key=True)
    size_bytes = models.BigIntegerField()
    created_at = models.DateTimeField(auto_now_add=True)
    # When somebody last set about storing it. What nothing refers to long after that is an orphan.
    touched_at = models.DateTimeField(db_default=Now(), db_index=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(sha256__regex=HEX_64), name="blob_is_named_by_its_sha256"),
            models.CheckConstraint(condition=Q(size_bytes__gte=0), name="blob_size_is_not_negative"),
        ]

    def __str__(self) -> str:
        return self.sha256


class Adapter(models.Model):
    """A named LoRA expert `owner/name`. What routers and merges read is its `head`, never a revision in work."""

    class Visibility(models.TextChoices):
        PUBLIC = "public"
        PRIVATE = "private"

    namespace = models.ForeignKey("registry.Namespace", on_delete=models.PROTECT, related_name="adapters")
    name = models.CharField(max_length=96)
    # `owner/name` as written and folded; kept here so that lists need no join and names stay unique in any case.
    full_name = models.CharField(max_length=200, unique=True)
    key = models.CharField(max_length=200, unique=True)
    visibility = models.CharField(max_length=7, choices=Visibility, default=Visibility.PUBLIC)
    description = models.TextField(blank=True)
    license = models.CharField(max_length=100, blank=True)
    tags = models.JSONField(default=list)
    base_model = models.CharField(max_length=500, blank=True)
    samples_public = models.BooleanField(default=True)
    downloads = models.BigIntegerField(default=0)
    # The revision that `main` points to; null until the first one has passed its checks.
    head = models.OneToOneField("registry.Revision", null=True, on_delete=models.PROTECT, related_name="head_of")
    yanked_at = models.DateTimeField(null=True)
    # Position in the registry-wide order of visible changes: what an index has to look at again.
    change_seq = models.BigIntegerField(default=0, db_index=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    # What lists filter, count and sort by, of the head or, without one, of the newest revision. Repeated here by
    # `registry.listing`, so that a list reads narrow rows of one table.
    state = models.CharField(max_length=8, default="checking")
    rank = models.PositiveIntegerField(default=0)
    scaling = models.FloatField(null=True)
    size_bytes = models.BigIntegerField(default=0)
    modules_bound = models.PositiveIntegerField(default=0)
    modules_in_base = models.PositiveIntegerField(null=True)
    has_samples = models.BooleanField(default=False)
    is_merged = models.BooleanField(default=False)
    # Name, base model, tags and description, folded: databases disagree about case outside ASCII.
    search_text = models.TextField(blank=True)

    class Meta:
        ordering = ["full_name"]
        indexes = [
            models.Index(fields=["-updated_at", "id"], name="adapter_by_update"),
            models.Index(fields=["base_model"], name="adapter_by_base"),
            models.Index(fields=["-downloads", "id"], name="adapter_by_downloads"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(visibility__in=["public", "private"]), name="adapter_is_public_or_private"
            )
        ]

    def __str__(self) -> str:
        return self.full_name


class AdapterTag(models.Model):
    """A tag of an adapter as a row, for filters and counts; `Adapter.tags` has them in the order given."""

    adapter = models.ForeignKey(Adapter, on_delete=models.CASCADE, related_name="tag_rows")
    name = models.CharField(max_length=80)

    class Meta:
        # Named first, so that the tags are counted in the order of the index.
        constraints = [models.UniqueConstraint(fields=["name", "adapter"], name="an_adapter_has_a_tag_once")]

    def __str__(self) -> str:
        return self.name


class ChangeCounter(models.Model):
    """One row: the last `change_seq` given out. Updating it serialises the transactions that change what is visible."""

    value = models.BigIntegerField(default=0)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="there_is_one_change_counter")]

    def __str__(self) -> str:
        return str(self.value)


class Revision(models.Model):
    """An immutable version of an adapter's files; only its verdict is filled in, once, by its job."""

    class State(models.TextChoices):
        CHECKING = "checking"
        READY = "ready"
        REJECTED = "rejected"

    adapter = models.ForeignKey(Adapter, on_delete=models.CASCADE, related_name="revisions")
    commit = models.CharField(max_length=40)
    parent = models.ForeignKey("self", null=True, on_delete=models.PROTECT, related_name="children")
    author = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    message = models.CharField(max_length=500, blank=True)
    state = models.CharField(max_length=8, choices=State, default=State.CHECKING)
    base_model = models.CharField(max_length=500, blank=True)
    # The facts of the REST contract in two parts, because those of the modules can be a megabyte.
    summary = models.JSONField(default=dict)
    # ‖ΔW‖_F over all modules, scaling included: what an outlier is compared with.
    norm = models.FloatField(null=True)
    problems = models.JSONField(default=list)
    warnings = models.JSONField(default=list)
    created_at = models.DateTimeField(auto_now_add=True)
    # Last, because SQLite reads a row from its start. Lists defer it.
    modules = models.JSONField(default=list)

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [
            models.UniqueConstraint(fields=["adapter", "commit"], name="a_commit_names_one_revision"),
            models.CheckConstraint(condition=Q(commit__regex=HEX_40), name="commit_is_40_hex"),
            models.CheckConstraint(condition=~Q(state="rejected") | ~Q(problems=[]), name="rejected_revision_says_why"),
            models.CheckConstraint(
                condition=Q(state__in=["checking", "ready", "rejected"]), name="revision_state_is_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.adapter.full_name}@{self.commit}"

    @property
    def facts(self) -> dict[str, Any]:
        """`{peft_type, rank, …, modules: [{path, rank, …}]}`, as the REST contract has it."""
        return self.summary | {"modules": self.modules}

    @facts.setter
    def facts(self, facts: dict[str, Any]) -> None:
        self.summary = {name: value for name, value in facts.items() if name != "modules"}
        self.modules = facts.get("modules", [])

    def file(self, path: str) -> "RevisionFile | None":
        return next((file for file in self.files.all() if file.path == path), None)


class RevisionFile(models.Model):
    """One line of a revision's manifest."""

    revision = models.ForeignKey(Revision, on_delete=models.CASCADE, related_name="files")
    path = models.CharField(max_length=200)
    blob = models.ForeignKey(Blob, on_delete=models.PROTECT, related_name="files")

    class Meta:
        ordering = ["path"]
        constraints = [models.UniqueConstraint(fields=["revision", "path"], name="a_path_is_in_a_revision_once")]

    def __str__(self) -> str:
        return self.path

    def as_json(self) -> dict[str, Any]:
        return {"path": self.path, "size_bytes": self.blob.size_bytes, "sha256": self.blob_id}


class Ref(models.Model):
    """A movable name (branch or tag) for a revision. `main` is `Adapter.head` and has no row."""

    adapter = models.ForeignKey(Adapter, on_delete=models.CASCADE, related_name="refs")
    name = models.CharField(max_length=96)
    revision = models.ForeignKey(Revision, on_delete=models.PROTECT, related_name="refs")

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["adapter", "name"], name="a_ref_names_one_revision"),
            models.CheckConstraint(condition=~Q(name="main"), name="main_is_the_head"),
        ]

    def __str__(self) -> str:
        return self.name
