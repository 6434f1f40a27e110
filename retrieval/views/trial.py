"""The page that tries experts on labelled examples; it calls the REST API from the browser."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from lora.runtime.text import PROMPT
from registry.base_weights import can_run
from retrieval.spaces import warm_up
from retrieval.trials import DEFAULT_K, MAX_CANDIDATES, MAX_EXAMPLES, choices_of_bases


@require_safe
def trial(request: HttpRequest) -> HttpResponse:
    warm_up()
    context = {
        "section": "trial",
        "bases": [base | {"runnable": can_run(base["name"])} for base in choices_of_bases(request.user)],
        "default_k": DEFAULT_K,
        "default_prompt": PROMPT,
        "max_k": MAX_CANDIDATES,
        "max_examples": MAX_EXAMPLES,
    }
    return render(request, "retrieval/trial.html", context)
