"""Signing up, and the access tokens of an account."""

from datetime import timedelta
from typing import Any

from django import forms
from django.conf import settings
from django.contrib.auth import login
from django.contrib.auth.decorators import login_required
from django.contrib.auth.forms import BaseUserCreationForm
from django.contrib.auth.models import User
from django.contrib.auth.views import LoginView
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from registry.accounts import create_user
from registry.errors import AppError
from registry.models import AccessToken
from registry.tokens import MAX_DAYS, create_token

DEFAULT_DAYS = 90
# A token that expires within this is marked, so that it is replaced in time.
SOON = timedelta(days=7)


class SignUpForm(BaseUserCreationForm):
    """Django's checks of the password, and ours of the name, which becomes the namespace."""

    class Meta(BaseUserCreationForm.Meta):
        model = User
        help_texts = {"username": "The first half of your experts' names. Letters, digits, “.”, “_” and “-”."}

    def create(self) -> User | None:
        """The new account; None, with an error on the form, where the name is refused."""
        try:
            return create_user(self.cleaned_data["username"], self.cleaned_data["password1"])
        except AppError as error:
            self.add_error("username", error.message)
            return None


class TokenForm(forms.Form):
    name = forms.CharField(
        max_length=100,
        help_text="What it is for, so that you know which one to revoke.",
        widget=forms.TextInput({"autocomplete": "off", "placeholder": "laptop"}),
    )
    days = forms.IntegerField(
        min_value=1, max_value=MAX_DAYS, initial=DEFAULT_DAYS, label="Valid for, days", help_text=f"1 to {MAX_DAYS}."
    )


class LogIn(LoginView):
    template_name = "accounts/login.html"
    redirect_authenticated_user = True
    extra_context = {"section": "login"}

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """Without the `site` of django.contrib.sites, which would hide ours from the template."""
        context = super().get_context_data(**kwargs)
        del context["site"]
        return context


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def signup(request: HttpRequest) -> HttpResponse:
    if request.user.is_authenticated:
        return redirect("home")
    if not settings.SIGNUP_OPEN:
        return render(request, "accounts/signup_closed.html", {"section": "signup"}, status=403)
    form = SignUpForm(request.POST or None)
    if request.method == "POST" and form.is_valid() and (user := form.create()):
        login(request, user)
        return redirect("home")
    return render(request, "accounts/signup.html", {"section": "signup", "form": form})


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def tokens(request: HttpRequest) -> HttpResponse:
    """The caller's tokens. A new one is shown in this one answer and never again."""
    form = TokenForm(request.POST or None)
    now = timezone.now()
    context: dict[str, Any] = {"section": "tokens", "form": form, "now": now, "soon": now + SOON}
    if request.method == "POST" and form.is_valid():
        context["token"], context["secret"] = create_token(request.user, **form.cleaned_data)
        context["form"] = TokenForm()
    context["tokens"] = AccessToken.objects.filter(user=request.user)
    return render(request, "accounts/tokens.html", context)


@require_POST
@login_required
def revoke_token(request: HttpRequest, token_id: int) -> HttpResponse:
    token = get_object_or_404(AccessToken, pk=token_id, user=request.user)
    AccessToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=Now())
    return redirect("tokens")
