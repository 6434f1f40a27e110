"""REST paths that need both the registry and retrieval."""

from django.urls import path

from retrieval.api.adapters import AdapterDetail, AdapterList, AdapterSamples
from retrieval.api.bundles import BundleArchive, BundleDetail, BundleList
from retrieval.api.compositions import CompositionArchive, CompositionDetail, CompositionList
from retrieval.api.leaderboard import Leaderboard
from retrieval.api.map import MapOfExperts
from retrieval.api.merges import MergeArchive, MergeDetail, MergeList, MergePreview, MergeRecipe
from retrieval.api.methods import Methods
from retrieval.api.outcomes import OutcomeDetail, OutcomeList
from retrieval.api.prototypes import AdapterPrototype
from retrieval.api.retrieve import Retrieve
from retrieval.api.searches import SearchDetail, SearchList, SearchTell
from retrieval.api.similar import AdapterSimilar
from retrieval.api.trials import TrialList

urlpatterns = [
    path("retrieve/", Retrieve.as_view(), name="api-retrieve"),
    path("methods/", Methods.as_view(), name="api-methods"),
    path("map/", MapOfExperts.as_view(), name="api-map"),
    path("leaderboard/", Leaderboard.as_view(), name="api-leaderboard"),
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
    path("outcomes/", OutcomeList.as_view()),
    path("outcomes/<uuid:outcome_id>/", OutcomeDetail.as_view()),
    path("bundles/", BundleList.as_view()),
    path("bundles/<uuid:bundle_id>/", BundleDetail.as_view()),
    path("bundles/<uuid:bundle_id>/archive/", BundleArchive.as_view()),
    path("compositions/", CompositionList.as_view()),
    path("compositions/<str:owner>/<str:name>/", CompositionDetail.as_view()),
    path("compositions/<str:owner>/<str:name>/archive/", CompositionArchive.as_view()),
    path("trials/", TrialList.as_view()),
    path("searches/", SearchList.as_view()),
    path("searches/<uuid:search_id>/", SearchDetail.as_view()),
    path("searches/<uuid:search_id>/tell/", SearchTell.as_view()),
]
