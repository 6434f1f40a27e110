"""Rows for what an import of a directory found."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("registry", "0003_blob_touched_at")]

    operations = [
        migrations.CreateModel(
            name="ImportedFolder",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("path", models.CharField(max_length=1000)),
                ("name", models.CharField(max_length=200)),
                (
                    "outcome",
                    models.CharField(
                        choices=[("fits", "Fits"), ("taken", "Taken"), ("known", "Known"), ("refused", "Refused")],
                        max_length=7,
                    ),
                ),
                ("reason", models.TextField(blank=True)),
                ("size_bytes", models.BigIntegerField(default=0)),
                ("rank", models.PositiveIntegerField(null=True)),
                ("warnings", models.JSONField(default=list)),
                ("left_out", models.JSONField(default=list)),
                (
                    "job",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="folders", to="registry.job"
                    ),
                ),
                (
                    "revision",
                    models.ForeignKey(
                        null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="+", to="registry.revision"
                    ),
                ),
            ],
            options={
                "ordering": ["id"],
                "constraints": [
                    models.UniqueConstraint(fields=("job", "path"), name="an_import_judges_a_folder_once"),
                    models.CheckConstraint(
                        condition=models.Q(("outcome__in", ["fits", "taken", "known", "refused"])),
                        name="import_outcome_is_known",
                    ),
                ],
            },
        ),
    ]
