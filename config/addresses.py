"""Which host names and paths are answered: strangers' names are refused, a page without its slash is redirected."""

from django.http import HttpRequest, HttpResponse
from django.middleware.common import CommonMiddleware

from config.http_errors import API_PREFIX
from config.request_log import PROBES


class AddressMiddleware(CommonMiddleware):
    """Django's own, but for probes, which come with an address for a name, and for API paths, which are exact."""

    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        return None if request.path in PROBES else super().process_request(request)

    def should_redirect_with_slash(self, request: HttpRequest) -> bool:
        is_page = request.method in ("GET", "HEAD") and not request.path.startswith(API_PREFIX)
        return is_page and super().should_redirect_with_slash(request)
