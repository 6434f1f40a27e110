"""Code that a visitor copies to use an adapter."""

import shlex

from django.conf import settings

from lora.config import parse_config
from lora.errors import InvalidAdapter
from registry.errors import BlobDamaged
from registry.intake import CONFIG
from registry.models import Adapter, Revision
from registry.storage import read_blob

# transformers' Auto class by PEFT's task type; anything else loads the bare model.
AUTO_CLASS = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    None: "AutoModelForCausalLM",
}


def download_snippet(adapter: Adapter, revision: Revision) -> str:
    """Shell: fetch the PEFT folder of this revision and unpack it."""
    header = '-H "Authorization: Bearer $LORADEX_TOKEN" ' if adapter.visibility == "private" else ""
    url = f"{settings.EXTERNAL_URL}/api/v1/adapters/{adapter.full_name}/archive/?revision={revision.commit}"
    return (
        f"curl -fsSL {header}-o {adapter.name}.zip \\\n  {shlex.quote(url)}\nunzip -d {adapter.name} {adapter.name}.zip"
    )


def peft_snippet(adapter: Adapter, revision: Revision) -> str:
    """Python: load the unpacked folder on its base model."""
    auto = AUTO_CLASS.get(_task_type(revision), "AutoModel")
    base = revision.base_model or "PATH OF THE BASE MODEL"
    return (
        "from peft import PeftModel\n"
        f"from transformers import {auto}, AutoTokenizer\n\n"
        f"base = {auto}.from_pretrained({base!r})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({base!r})\n"
        f"model = PeftModel.from_pretrained(base, {adapter.name!r})"
    )


def _task_type(revision: Revision) -> str | None:
    file = revision.file(CONFIG)
    try:
        return parse_config(read_blob(file.blob)).task_type if file else None
    except (InvalidAdapter, BlobDamaged):
        # The page names such problems elsewhere; the snippet is a suggestion.
        return None
