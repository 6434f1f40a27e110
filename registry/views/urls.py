"""The pages of the registry."""

from django.contrib.auth.views import LogoutView
from django.urls import path

from registry.views import accounts, jobs, merges
from registry.views.imports import import_page
from registry.views.upload import upload

urlpatterns = [
    path("upload/", upload, name="upload"),
    path("import/", import_page, name="import"),
    path("jobs/", jobs.jobs, name="jobs"),
    path("jobs/<uuid:job_id>/", jobs.job, name="job"),
    path("jobs/<uuid:job_id>/cancel/", jobs.cancel_job, name="cancel_job"),
    path("merges/<uuid:merge_id>/", merges.merge, name="merge_page"),
    path("login/", accounts.LogIn.as_view(), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("signup/", accounts.signup, name="signup"),
    path("settings/tokens/", accounts.tokens, name="tokens"),
    path("settings/tokens/<int:token_id>/revoke/", accounts.revoke_token, name="revoke_token"),
]
