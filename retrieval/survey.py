"""The methods of the survey of model MoErging, arXiv:2408.07057v2: its nine facets, and what there is of them here.

The facets are those of the box at the head of each method's section 4.x; "Multiple" and "N/A" are the survey's words.
"""

from dataclasses import dataclass

FACETS = {
    "expert_training": "Expert training",
    "expert_data": "Expert data",
    "routing_dataset": "Routing dataset",
    "input_granularity": "Input granularity",
    "depth_granularity": "Depth granularity",
    "expert_selection": "Expert selection",
    "expert_aggregation": "Expert aggregation",
    "generalization": "Generalization",
    "user_dataset": "User dataset",
}
HAVE = {
    "samples": "sample inputs of the experts or of the task",
    "descriptions": "what is said about the experts",
    "labels": "labelled examples of the task",
    "base_model": "the base model, on a worker or on the client",
    "gates": "trained gates, by contributors or a worker",
    "hidden_states": "hidden states of the base model",
    "outcomes": "how experts did on known questions",
}


@dataclass(frozen=True)
class Entry:
    """One method of the survey.

    Attributes:
        section: of the survey. facets: in the order of `FACETS`.
        needs: words of `HAVE`. keeps: what is kept for it, per expert or for a set of experts.
        routers, merges, compositions: what of it is served here, where the catalogues have these names.
        call, back: how that is asked for, and what comes back.
    """

    section: str
    name: str
    facets: tuple[str, ...]
    needs: tuple[str, ...]
    keeps: str
    routers: tuple[str, ...] = ()
    merges: tuple[str, ...] = ()
    compositions: tuple[str, ...] = ()
    call: str = ""
    back: str = ""


_BOXES = """
4.1 | AdapterFusion | Standard Private Target Step Module Dense Output In-Distribution Full
4.2 | Retrieval of Experts | Custom Private None Task Model Sparse None Out-of-Distribution Zero-Shot
4.3 | AdapterSoup | Custom Private None Task Model Sparse Parameter Out-of-Distribution Few-Shot
4.4 | π-Tuning | Custom Private Target Task Model Sparse Parameter Out-of-Distribution Multiple
4.5 | MixDA | Custom Private Target Example Module Dense Output In-Distribution Full
4.6 | Mo'LoRA | Custom Private None Example Model Dense Parameter Out-of-Distribution Zero-Shot
4.7 | LoraHub | Standard Private Target Task Model Sparse Parameter Out-of-Distribution Few-Shot
4.8 | Airoboros and LlamaIndex | Multiple Private None Example Model Sparse None Multiple Zero-Shot
4.9 | Routing with Benchmark Datasets | Standard Private General Task Model Sparse None Out-of-Distribution Zero-Shot
4.10 | Zooter | Standard Private General Example Model Sparse None Out-of-Distribution Zero-Shot
4.11 | Token-Level Adaptation | Custom Private None Step Model Dense Parameter In-Distribution Zero-Shot
4.12 | CALM | Standard Multiple Multiple Task N/A None Output Multiple Full
4.13 | What the Weight? | Standard Multiple Multiple Example Module Sparse Multiple Out-of-Distribution Zero-Shot
4.14 | Routoo | Standard Private Multiple Example Model Sparse None Out-of-Distribution Few-Shot
4.15 | Weight-Ensembling MoE | Standard Private Target Example Module Dense Parameter Multiple Zero-Shot
4.16 | PHATGOOSE | Custom Private None Step Module Sparse Output Out-of-Distribution Zero-Shot
4.17 | LoraRetriever | Standard Shared Expert Example Model Sparse Multiple Multiple Full
4.18 | LoRA-Flow | Standard Private Target Step Module Dense Output Out-of-Distribution Few-Shot
4.19 | PEMT | Custom Private Target Task Module Dense Output Out-of-Distribution Multiple
4.20 | Co-LLM | Custom Private Target Step Model Sparse None In-Distribution Full
4.21 | Branch-Train-Mix | Standard Shared Expert Step Module Sparse Output In-Distribution Multiple
4.22 | Dynamic Adapter Merging | Custom Private None Example Model Dense Parameter In-Distribution Zero-Shot
4.23 | Mixture of LoRA Experts | Standard Private Target Step Module Dense Output Multiple Few-Shot
4.24 | Arrow | Standard Private None Step Module Sparse Parameter Out-of-Distribution Zero-Shot
4.25 | MeteoRA | Standard Shared Expert Step Module Sparse Output In-Distribution Full
4.26 | PWE MoE | Standard Shared Expert N/A Module Dense Parameter In-Distribution Full
4.27 | RouteLLM | Standard Private Multiple Example Model Sparse None Multiple Zero-Shot
4.28 | Twin-Merging | Standard Shared Target Example Model Dense Parameter Multiple Full
4.29 | RAMoLE | Standard Shared Expert Step Module Dense Parameter Multiple Zero-Shot
"""

_SAMPLES = "sample inputs, as samples.jsonl of an upload"
_OUTCOMES = "how experts did on texts, as POST /outcomes/"
_RANKED = "ranked experts with weights"
_LABELLED = ("labels", "base_model")
_UPLOAD_GATES = "POST /compositions/ with the gates as safetensors, and the experts that they are for"
_TRAIN_GATES = (
    "POST /compositions/ with train, and a worker trains the gates on samples with outputs; or with the gates"
)
_RUNS = "an archive that runs beside the base"
_KEPT = "an archive for the code that runs it elsewhere; it is not run here"


def _composed(
    name: str, keeps: str, needs: tuple[str, ...] = _LABELLED, call: str = _TRAIN_GATES, back: str = _RUNS
) -> dict[str, object]:
    return {"needs": needs, "keeps": keeps, "compositions": (name,), "call": call, "back": back}


def _kept(name: str, keeps: str) -> dict[str, object]:
    return _composed(name, keeps, call=_UPLOAD_GATES, back=_KEPT)


# By section: needs, keeps, routers, merges, compositions, call, back.
_HERE: dict[str, dict[str, object]] = {
    "4.1": _composed("adapter_fusion", "adapters, and an attention over them for each target task"),
    "4.2": {
        "needs": ("samples",),
        "keeps": _SAMPLES,
        "routers": ("retrieval_of_experts",),
        "call": "POST /retrieve/ with some 32 inputs of the task as examples",
        "back": "the expert that most of them vote for, with its share of the votes",
    },
    "4.3": {
        "needs": ("samples",),
        "keeps": _SAMPLES,
        "routers": ("adapter_soup",),
        "call": "POST /retrieve/ with inputs of the task as examples; POST /merges/ with the same as retrieve",
        "back": "the nearest experts in equal parts; merged, one adapter",
    },
    "4.4": {
        "needs": _LABELLED,
        "keeps": "diagonal Fisher information at each expert's samples, computed by a worker",
        "routers": ("pi_tuning",),
        "call": "POST …/prototypes/fisher/ of each expert; POST /retrieve/ with labelled examples, or their embedding",
        "back": _RANKED + "; trained jointly by the client",
    },
    "4.5": _composed("mixda", "adapters, and gates for each target task"),
    "4.6": {
        "needs": ("samples",),
        "keeps": _SAMPLES,
        "routers": ("molora",),
        "call": "POST /retrieve/ with the prompt as text; POST /merges/ with the same as retrieve",
        "back": "all experts with weights by their nearness; merged, one adapter",
    },
    "4.7": {
        "needs": _LABELLED,
        "keeps": "adapters of one base model",
        "routers": ("lorahub",),
        "merges": ("lorahub", "lorahub_factors"),
        "call": "POST /retrieve/ with labelled examples, which finds the candidates, too; POST /merges/ with lorahub "
        "and experts of your choice; POST /searches/ to compute the losses yourself",
        "back": "experts with the weights that were found, of any sign, and the loss before and after; or one adapter, "
        "merged with them",
    },
    "4.8": {
        "needs": ("samples",),
        "keeps": _SAMPLES + "; the description",
        "routers": ("airoboros", "description"),
        "call": "POST /retrieve/ with the whole prompt as text; description: params.choose asks a language model",
        "back": "the expert with the nearest samples; or experts by what is said about them, or the prompt to ask",
    },
    "4.9": {
        "needs": ("outcomes",),
        "keeps": _OUTCOMES,
        "routers": ("benchmark_knn",),
        "call": "POST /retrieve/ with inputs of the task as examples; params.score chooses S1, S2 or S3",
        "back": "experts by the accuracy to expect of them",
    },
    "4.10": {
        "needs": ("outcomes",),
        "keeps": _OUTCOMES + ", such as those of a reward model",
        "routers": ("classifier",),
        "call": "POST /retrieve/ with the prompt as text",
        "back": "experts by the probability that they answer best",
    },
    "4.11": {
        "needs": ("samples",),
        "keeps": _SAMPLES,
        "routers": ("token_level",),
        "call": "POST /retrieve/ with the text generated so far, again every other token",
        "back": "weights of the experts, for the client to mix with",
    },
    "4.12": _kept("calm", "adapters, and the cross-attention between two models"),
    "4.13": {
        "needs": ("samples",),
        "keeps": _SAMPLES + "; nothing but the adapters for prior and entropy, by a worker with the base model",
        "routers": ("what_the_weight",),
        "call": "POST /retrieve/ with some 100 inputs as examples; params.score chooses the scoring",
        "back": "the best experts, weighted by their scores or equally",
    },
    "4.14": {
        "needs": ("outcomes",),
        "keeps": _OUTCOMES + ", with costs",
        "routers": ("classifier", "cost_aware"),
        "call": "POST /retrieve/ with the prompt as text; params.budget bounds what an answer may cost",
        "back": "the cheapest expert that is expected to be good enough",
    },
    "4.15": _composed("wemoe", "adapters as task vectors, and a gate per layer for the set", ("samples", "base_model")),
    "4.16": {
        "needs": ("base_model", "gates"),
        "keeps": "a gate vector per module, as gates.safetensors of an upload or trained by a worker",
        "routers": ("phatgoose",),
        "call": "POST …/prototypes/phatgoose/ of each expert; POST /bundles/ to route inside, or POST /retrieve/",
        "back": "an archive that runs beside the base; or experts by the share of tokens that their gates win",
    },
    "4.17": {
        "needs": ("samples",),
        "keeps": _SAMPLES + ", 20 or more",
        "routers": ("lora_retriever",),
        "merges": ("fusion_factors",),
        "call": "POST /retrieve/ with the prompt as text; POST /merges/ with the same as retrieve",
        "back": _RANKED + "; merged, one adapter",
    },
    "4.18": _composed("lora_flow", "adapters, and a gate per layer for the set"),
    "4.19": _composed("pemt", "adapters, and per layer a vector for each of their tasks and for the target"),
    "4.20": _kept("co_llm", "a deferral head on the base model, and the expert"),
    "4.21": _kept("btx", "a router over feed-forward experts, as far as these are adapters"),
    "4.22": {
        "needs": ("samples", "base_model"),
        "keeps": "hidden states of each expert's samples in one late layer, computed by a worker",
        "routers": ("dam",),
        "call": "POST …/prototypes/dam/ of each expert; POST /retrieve/ with hidden states, or a text",
        "back": _RANKED,
    },
    "4.23": _composed("mole", "adapters, and a gate per layer for the set"),
    "4.24": {
        "needs": ("base_model",),
        "keeps": "nothing but the weights: the vectors are computed from them",
        "routers": ("arrow", "arrow_global", "spectr"),
        "call": "POST /bundles/ to route inside the model; POST /retrieve/ with hidden states, or with a text",
        "back": "an archive that runs beside the base; or ranked experts with weights",
    },
    "4.25": _composed("meteora", "adapters, and a linear gate per module for the set"),
    "4.26": _composed(
        "pwe_moe",
        "adapters, and gates from preferences to weights for the set",
        needs=(),
        call=_TRAIN_GATES + "; without any, POST /merges/ with the preferences as weights",
        back=_RUNS + "; or one adapter, merged with these weights",
    )
    | {"merges": ("weighted_sum",)},
    "4.27": {
        "needs": ("outcomes",),
        "keeps": _OUTCOMES + ", also votes: 1 for the better answer, 0 for the other",
        "routers": ("routellm_mf",),
        "call": "POST /retrieve/ with the prompt as text",
        "back": "experts by the probability that they beat the others",
    },
    "4.28": _composed(
        "twin_merging",
        "adapters of what is shared and of what is each expert's own, and a router for the set",
        needs=("samples", "base_model"),
    ),
    "4.29": _composed(
        "ramole",
        _SAMPLES + "; a RouterLoRA for each base model, in a composition with the experts that it may be asked about",
        ("samples", "base_model"),
        "POST /retrieve/ with the prompt as text, which names the compositions, too; " + _TRAIN_GATES,
        _RANKED + ", and an archive that weighs them inside the base",
    )
    | {"routers": ("ramole", "lora_retriever")},
}

OURS = {
    "hybrid": "class means under one shared whitening of meaning and surface",
    "arrow_global": "Arrow's vectors against what they give on generic texts, for whole experts",
    "activation": "PHATGOOSE's baseline: mean activations of samples in the place of gates",
}


def _entries() -> tuple[Entry, ...]:
    boxes = [line.split(" | ") for line in _BOXES.strip().splitlines()]
    return tuple(
        Entry(section, name, tuple(box.split()), **_HERE[section])  # type: ignore[arg-type]
        for section, name, box in boxes
    )


SURVEY = _entries()
