"""What an import of a directory found, folder by folder."""

from django.db import models


class ImportedFolder(models.Model):
    """One folder of an import's job, and what became of it."""

    class Outcome(models.TextChoices):
        # Only looked at: it would be taken in.
        FITS = "fits"
        # A new revision, whose own job checks the values.
        TAKEN = "taken"
        # The registry had these very files.
        KNOWN = "known"
        REFUSED = "refused"

    job = models.ForeignKey("registry.Job", on_delete=models.CASCADE, related_name="folders")
    # Relative to the directory of the import.
    path = models.CharField(max_length=1000)
    name = models.CharField(max_length=200)
    outcome = models.CharField(max_length=7, choices=Outcome)
    reason = models.TextField(blank=True)
    size_bytes = models.BigIntegerField(default=0)
    rank = models.PositiveIntegerField(null=True)
    # Codes of the warnings, and names of the files that no revision holds.
    warnings = models.JSONField(default=list)
    left_out = models.JSONField(default=list)
    revision = models.ForeignKey("registry.Revision", null=True, on_delete=models.SET_NULL, related_name="+")

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(fields=["job", "path"], name="an_import_judges_a_folder_once"),
            models.CheckConstraint(
                condition=models.Q(outcome__in=["fits", "taken", "known", "refused"]), name="import_outcome_is_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.outcome})"
