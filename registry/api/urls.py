"""REST paths served by the registry."""

from django.urls import path

from registry.api.base_models import BaseModelDetail, BaseModelList
from registry.api.checks import Checks
from registry.api.files import Archive, FileDetail, RevisionList
from registry.api.imports import ImportFolders, ImportList
from registry.api.jobs import JobCancel, JobDetail, JobList

urlpatterns = [
    path("base-models/", BaseModelList.as_view()),
    path("base-models/<path:name>/", BaseModelDetail.as_view()),
    path("checks/", Checks.as_view()),
    path("imports/", ImportList.as_view()),
    path("imports/<uuid:job_id>/", ImportFolders.as_view()),
    path("jobs/", JobList.as_view()),
    path("jobs/<uuid:job_id>/", JobDetail.as_view()),
    path("jobs/<uuid:job_id>/cancel/", JobCancel.as_view()),
    path("adapters/<str:owner>/<str:name>/revisions/", RevisionList.as_view()),
    path("adapters/<str:owner>/<str:name>/files/<path:path>", FileDetail.as_view()),
    path("adapters/<str:owner>/<str:name>/archive/", Archive.as_view()),
]
