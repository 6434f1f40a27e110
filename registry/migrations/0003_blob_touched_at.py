"""When a blob was last being stored, which tells an orphan from an upload in work."""

from django.db import migrations, models
from django.db.models.functions import Now


class Migration(migrations.Migration):
    dependencies = [("registry", "0002_lists")]

    operations = [
        migrations.AddField("blob", "touched_at", models.DateTimeField(db_default=Now(), db_index=True)),
    ]
