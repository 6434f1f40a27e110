"""Every URL, by prefix."""

from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from config.health import healthz, readyz
from config.metrics import metrics

urlpatterns = [
    path("api/v1/", include("registry.api.urls")),
    path("api/v1/", include("retrieval.api.urls")),
    path("api/v1/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/v1/docs/", SpectacularSwaggerSplitView.as_view(url_name="schema"), name="docs"),
    path("healthz", healthz),
    path("readyz", readyz),
    path("metrics", metrics),
    path("", include("retrieval.html_urls")),
    path("", include("registry.views.urls")),
]

handler500 = "config.http_errors.server_error"
