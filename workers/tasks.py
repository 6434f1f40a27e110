"""The only Celery task: run the job of that id."""

from celery import shared_task

from workers.runner import run


@shared_task(name="workers.tasks.run_job", ignore_result=True, Request="workers.request:Request")
def run_job(job_id: str) -> None:
    run(job_id)
