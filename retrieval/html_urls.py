"""The pages of adapters, retrieval and merging."""

from django.urls import path

from retrieval.views import adapter, ask, compare, compositions, home, leaderboard, listing, methods, trial

urlpatterns = [
    path("", home.home, name="home"),
    path("adapters/", listing.adapters, name="adapters"),
    path("adapters/compare/", compare.compare, name="compare"),
    path("adapters/<str:owner>/<str:name>/", adapter.adapter, name="adapter"),
    path("adapters/<str:owner>/<str:name>/similar/", adapter.similar_adapters, name="similar"),
    path("adapters/<str:owner>/<str:name>/modules/", adapter.modules, name="modules"),
    path("adapters/<str:owner>/<str:name>/modules.csv", adapter.modules_file, name="modules_file"),
    path("adapters/<str:owner>/<str:name>/progress/", adapter.progress, name="adapter_progress"),
    path("retrieve/", ask.retrieve, name="retrieve"),
    path("merge/", ask.merge, name="merge"),
    path("bundle/", ask.bundle, name="bundle"),
    path("compositions/", compositions.compositions, name="compositions"),
    path("compositions/new/", compositions.compose, name="compose"),
    path("compositions/<str:owner>/<str:name>/", compositions.composition, name="composition"),
    path("compositions/<str:owner>/<str:name>/delete/", compositions.delete, name="delete_composition"),
    path("jobs/<uuid:job_id>/compose/", compositions.compose_again, name="compose_again"),
    path("trial/", trial.trial, name="trial"),
    path("leaderboard/", leaderboard.leaderboard, name="leaderboard"),
    path("methods/", methods.methods, name="methods"),
    path("leaderboard.csv", leaderboard.leaderboard_file, name="leaderboard_file"),
]
