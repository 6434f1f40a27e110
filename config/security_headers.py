"""What a browser may do with our answers: scripts and styles come from our own static files only, no devices.

The other headers (HSTS, nosniff, referrer, opener, framing) are Django's, in `settings.py`.
"""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

POLICY = {
    "default-src": "'self'",
    "script-src": "'self'",
    "style-src": "'self'",
    # Charts position their tooltips through style attributes.
    "style-src-attr": "'unsafe-inline'",
    "img-src": "'self' data:",
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}
# Swagger UI writes <style> elements of its own.
API_DOCS_POLICY = POLICY | {"style-src": "'self' 'unsafe-inline'"}

NO_DEVICES = ", ".join(f"{name}=()" for name in ("camera", "geolocation", "microphone", "payment", "usb"))


class SecurityHeadersMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        policy = API_DOCS_POLICY if request.path.startswith("/api/v1/docs/") else POLICY
        response["Content-Security-Policy"] = "; ".join(f"{name} {value}" for name, value in policy.items())
        response["Permissions-Policy"] = NO_DEVICES
        return response
