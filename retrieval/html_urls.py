"""The pages of retrieval and merging."""

from django.urls import path

from retrieval import views

urlpatterns = [
    path("retrieve/", views.retrieve, name="retrieve"),
    path("merge/", views.merge, name="merge"),
]
