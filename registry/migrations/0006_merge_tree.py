from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('registry', '0005_job_request_id'),
    ]

    operations = [
        migrations.AddField(
            model_name='merge',
            name='tree',
            field=models.JSONField(null=True),
        ),
    ]
