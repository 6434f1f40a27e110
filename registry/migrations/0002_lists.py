"""Columns and tags that lists filter and sort by; the facts of modules apart from the rest."""

import unicodedata

import django.db.models.deletion
from django.db import migrations, models

CHUNK = 200


def part_facts(apps, schema_editor):
    """Move `modules` out of every revision's facts."""
    revision_model = apps.get_model("registry", "Revision")
    ids = list(revision_model.objects.order_by("pk").values_list("pk", flat=True))
    for start in range(0, len(ids), CHUNK):
        revisions = list(revision_model.objects.filter(pk__in=ids[start : start + CHUNK]))
        for revision in revisions:
            revision.modules = revision.summary.pop("modules", [])
        revision_model.objects.bulk_update(revisions, ["summary", "modules"], batch_size=50)


def join_facts(apps, schema_editor):
    revision_model = apps.get_model("registry", "Revision")
    for revision in revision_model.objects.iterator(CHUNK):
        revision.summary = revision.summary | {"modules": revision.modules}
        revision.save(update_fields=["summary"])


def fill_lists(apps, schema_editor):
    """What `registry.listing` writes from now on."""
    adapter_model, tag_model = apps.get_model("registry", "Adapter"), apps.get_model("registry", "AdapterTag")
    for adapter in adapter_model.objects.select_related("head").defer("head__modules").iterator(CHUNK):
        revision = adapter.head or adapter.revisions.defer("modules").order_by("-created_at", "-pk").first()
        if revision is not None:
            facts = revision.summary
            adapter.state = revision.state
            adapter.rank = facts.get("rank") or 0
            adapter.scaling = facts.get("scaling")
            adapter.size_bytes = facts.get("size_bytes") or 0
            adapter.modules_bound = facts.get("modules_bound") or 0
            adapter.modules_in_base = facts.get("modules_in_base")
            adapter.has_samples = revision.files.filter(path="samples.jsonl").exists()
            adapter.is_merged = apps.get_model("registry", "Merge").objects.filter(revision=revision).exists()
        text = "\n".join([adapter.full_name, adapter.base_model, *adapter.tags, adapter.description])
        # An update, because a save would date the change of today.
        adapter_model.objects.filter(pk=adapter.pk).update(
            search_text=unicodedata.normalize("NFKC", text).casefold(),
            **{name: getattr(adapter, name) for name in FILLED},
        )
        tag_model.objects.bulk_create(tag_model(adapter=adapter, name=tag) for tag in adapter.tags)


FILLED = (
    "state",
    "rank",
    "scaling",
    "size_bytes",
    "modules_bound",
    "modules_in_base",
    "has_samples",
    "is_merged",
)


class Migration(migrations.Migration):
    dependencies = [("registry", "0001_initial")]

    operations = [
        migrations.RenameField("revision", "facts", "summary"),
        migrations.AddField("revision", "modules", models.JSONField(default=list)),
        migrations.AddField("adapter", "state", models.CharField(default="checking", max_length=8)),
        migrations.AddField("adapter", "rank", models.PositiveIntegerField(default=0)),
        migrations.AddField("adapter", "scaling", models.FloatField(null=True)),
        migrations.AddField("adapter", "size_bytes", models.BigIntegerField(default=0)),
        migrations.AddField("adapter", "modules_bound", models.PositiveIntegerField(default=0)),
        migrations.AddField("adapter", "modules_in_base", models.PositiveIntegerField(null=True)),
        migrations.AddField("adapter", "has_samples", models.BooleanField(default=False)),
        migrations.AddField("adapter", "is_merged", models.BooleanField(default=False)),
        migrations.AddField("adapter", "search_text", models.TextField(blank=True)),
        migrations.CreateModel(
            name="AdapterTag",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=80)),
                (
                    "adapter",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="tag_rows", to="registry.adapter"
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("name", "adapter"), name="an_adapter_has_a_tag_once")
                ],
            },
        ),
        migrations.RunPython(part_facts, join_facts),
        migrations.RunPython(fill_lists, migrations.RunPython.noop),
    ]
