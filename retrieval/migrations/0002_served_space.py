"""Which space is in service, and where the encoder of each is found."""

import django.db.models.deletion
from django.db import migrations, models


def serve_the_newest(apps, schema_editor):
    """What was in service: the space that the last encoder made."""
    space = apps.get_model("retrieval", "Space").objects.order_by("-created_at").first()
    if space is not None:
        apps.get_model("retrieval", "ServedSpace").objects.create(pk=1, space=space, wanted=space.pk)


class Migration(migrations.Migration):
    dependencies = [("retrieval", "0001_initial")]

    operations = [
        migrations.AddField("space", "model", models.TextField(blank=True)),
        migrations.CreateModel(
            name="ServedSpace",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("wanted_model", models.TextField(blank=True)),
                ("wanted", models.CharField(max_length=120)),
                (
                    "space",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="retrieval.space",
                    ),
                ),
            ],
            options={
                "constraints": [models.CheckConstraint(condition=models.Q(("id", 1)), name="one_space_is_served")],
            },
        ),
        migrations.RunPython(serve_the_newest, migrations.RunPython.noop),
    ]
