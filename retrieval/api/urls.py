"""REST paths that need both the registry and retrieval."""

from django.urls import path

from retrieval.api.adapters import AdapterDetail, AdapterList, AdapterSamples
from retrieval.api.merges import MergeArchive, MergeDetail, MergeList, MergePreview, MergeRecipe
from retrieval.api.methods import Methods
from retrieval.api.prototypes import AdapterPrototype
from retrieval.api.retrieve import Retrieve
from retrieval.api.searches import SearchDetail, SearchList, SearchTell
from retrieval.api.similar import AdapterSimilar

urlpatterns = [
    path("retrieve/", Retrieve.as_view(), name="api-retrieve"),
    path("methods/", Methods.as_view(), name="api-methods"),
    path("adapters/", AdapterList.as_view()),
    path("adapters/<str:owner>/<str:name>/", AdapterDetail.as_view()),
    path("adapters/<str:owner>/<str:name>/samples/", AdapterSamples.as_view()),
    path("adapters/<str:owner>/<str:name>/prototypes/<str:kind>/", AdapterPrototype.as_view()),
    path("adapters/<str:owner>/<str:name>/similar/", AdapterSimilar.as_view()),
    path("merges/", MergeList.as_view()),
    path("merges/preview/", MergePreview.as_view()),
    path("merges/<uuid:merge_id>/", MergeDetail.as_view()),
    path("merges/<uuid:merge_id>/archive/", MergeArchive.as_view()),
    path("merges/<uuid:merge_id>/recipe/", MergeRecipe.as_view()),
    path("searches/", SearchList.as_view()),
    path("searches/<uuid:search_id>/", SearchDetail.as_view()),
    path("searches/<uuid:search_id>/tell/", SearchTell.as_view()),
]
