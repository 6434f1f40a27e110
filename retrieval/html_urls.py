"""The pages of adapters, retrieval and merging."""

from django.urls import path

from retrieval.views import adapters, ask, home

urlpatterns = [
    path("", home.home, name="home"),
    path("adapters/", adapters.adapters, name="adapters"),
    path("adapters/<str:owner>/<str:name>/", adapters.adapter, name="adapter"),
    path("adapters/<str:owner>/<str:name>/similar/", adapters.similar_adapters, name="similar"),
    path("retrieve/", ask.retrieve, name="retrieve"),
    path("merge/", ask.merge, name="merge"),
]
