"""Weight searches of clients that evaluate themselves."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q


class Search(models.Model):
    """A search for weights: its start, its seed and the losses told so far decide what it asks next."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="searches")
    # As of a merge, resolved: [{adapter, revision, weight}], or recipes in the place of adapters. The weights are where
    # the search begins.
    inputs = models.JSONField()
    strategy = models.CharField(max_length=20)
    budget = models.PositiveIntegerField()
    bound = models.FloatField()
    seed = models.PositiveBigIntegerField()
    losses = models.JSONField(default=list)
    # How many losses there are: two clients cannot both tell the next one.
    told = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.CheckConstraint(condition=Q(told__lte=models.F("budget")), name="a_search_keeps_to_its_budget")
        ]

    def __str__(self) -> str:
        return f"{self.strategy} {self.id}"
