"""What experts scored on texts, as callers report it."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q

from registry.models.adapters import HEX_64


class Probe(models.Model):
    """A text that somebody has scored experts on. It is its owner's alone; others see what came of it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="probes")
    text = models.TextField()
    # sha256 of the text: the same text is the same probe.
    digest = models.CharField(max_length=64)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["owner", "digest"], name="a_text_is_a_probe_once"),
            models.CheckConstraint(condition=Q(digest__regex=HEX_64), name="probe_digest_is_a_sha256"),
        ]

    def __str__(self) -> str:
        return str(self.id)


class ProbeVector(models.Model):
    """A probe in a space."""

    probe = models.ForeignKey(Probe, on_delete=models.CASCADE, related_name="vectors")
    space = models.ForeignKey("retrieval.Space", on_delete=models.PROTECT, related_name="+")
    # (dim,) float32, little-endian, of length 1.
    vector = models.BinaryField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["probe", "space"], name="a_probe_is_in_a_space_once")]

    def __str__(self) -> str:
        return f"{self.probe_id} in {self.space_id}"


class Outcome(models.Model):
    """How well an expert did on a probe, as its owner says."""

    class Source(models.TextChoices):
        REPORTED = "reported"
        TRIAL = "trial"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    probe = models.ForeignKey(Probe, on_delete=models.CASCADE, related_name="outcomes")
    adapter = models.ForeignKey("registry.Adapter", on_delete=models.CASCADE, related_name="outcomes")
    # Whose weights answered: what was said of others does not count once the head has new ones.
    revision = models.ForeignKey("registry.Revision", on_delete=models.CASCADE, related_name="+")
    score = models.FloatField()
    cost = models.FloatField(null=True)
    source = models.CharField(max_length=8, choices=Source, default=Source.REPORTED)
    # In the order in which outcomes were committed, so that a process can ask for what is new.
    position = models.BigIntegerField(db_index=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["-position", "-id"]
        constraints = [
            models.UniqueConstraint(fields=["probe", "adapter"], name="an_adapter_is_scored_on_a_probe_once"),
            models.CheckConstraint(condition=Q(score__gte=0, score__lte=1), name="outcome_score_is_a_share"),
            models.CheckConstraint(
                condition=Q(cost__isnull=True) | Q(cost__gte=0), name="outcome_cost_is_not_negative"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.score} of adapter {self.adapter_id} on {self.probe_id}"


class OutcomeCounter(models.Model):
    """One row, locked by who changes outcomes: the last position, and how often some were changed or removed."""

    position = models.BigIntegerField(default=0)
    rewritten = models.BigIntegerField(default=0)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="there_is_one_outcome_counter")]

    def __str__(self) -> str:
        return f"{self.position}, rewritten {self.rewritten}"
