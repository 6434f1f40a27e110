"""What stands around a query and says nothing of its task: chat templates, greetings, closing words."""

from __future__ import annotations

import re
from collections.abc import Callable

from lora.hybrid.features import clipped

MAX_SPANS = 4
# A span shorter than this says too little of its own.
MIN_SPAN = 12
LONGEST_COURTESY = 160

_ANY = r"(?P<text>.*?)"
# Bounded, so that no text of blanks makes a search quadratic.
_GAP = r"\s{0,9}"
_END = rf"{_GAP}(?:<\|endoftext\|>|<eos>|</s>)?{_GAP}\Z"


def _turns(opening: str, closing: str) -> re.Pattern[str]:
    return re.compile(opening + _ANY + f"(?:{closing}|\\Z)", re.DOTALL)


# Every turn of the user; the last one is what is asked.
_TOKENS = {
    "chatml": _turns(r"<\|im_start\|>\s*user[ \t]*\n?", r"<\|im_end\|>|<\|im_start\|>"),
    "llama3": _turns(r"<\|start_header_id\|>\s*user\s*<\|end_header_id\|>", r"<\|eot_id\|>|<\|start_header_id\|>"),
    "llama4": _turns(r"<\|header_start\|>\s*user\s*<\|header_end\|>", r"<\|eot\|>|<\|header_start\|>"),
    "inst": _turns(r"\[INST\](?:\s*<<SYS>>.*?<</SYS>>)?", r"\[/INST\]"),
    "gemma": _turns(r"<start_of_turn>\s*user\b", r"<end_of_turn>|<start_of_turn>"),
    "phi": _turns(r"<\|user\|>", r"<\|end\|>|</s>|<\|assistant\|>|<\|endoftext\|>"),
    "command": _turns(r"<\|USER_TOKEN\|>", r"<\|END_OF_TURN_TOKEN\|>|<\|START_OF_TURN_TOKEN\|>"),
    "deepseek": _turns(r"<｜User｜>", r"<｜Assistant｜>|<｜end▁of▁sentence｜>"),
}
_ALPACA = re.compile(
    r"\A(?:Below is an instruction.*?)?\s*### Instruction:\s*"
    rf"{_ANY}(?:\n\s*### Input:\s*(?P<input>.*?))?(?:\n\s*### Response:\s*)?{_END}",
    re.DOTALL,
)
# Words, not tokens: a template only where they open the text and the assistant's turn closes it.
_SPEAKERS = [
    re.compile(
        rf"\A(?:A chat between a curious .*?)?(?:###\s*)?{user}:[ \t]*"
        rf"(?P<text>(?:(?!\n{_GAP}(?:###\s*)?{user}:).)*?){_GAP}"
        rf"(?:###\s*)?{assistant}:{_END}",
        re.DOTALL,
    )
    for user, assistant in (("USER", "ASSISTANT"), ("User", "Assistant"), ("Human", "Assistant"), ("Q", "A"))
]


def unwrap(text: str) -> str:
    """Return what is asked, without the chat template and the courtesy around it; any other text as it is, stripped.

    Of a conversation that is the user's last turn that says anything.
    """
    return without_courtesy(_asked(clipped(text)))


def _asked(text: str) -> str:
    for turns in _TOKENS.values():
        found = [match["text"].strip() for match in turns.finditer(text)]
        if any(found):
            return [turn for turn in found if turn][-1]
    if match := _ALPACA.match(text):
        parts = (match["text"].strip(), (match["input"] or "").strip())
        return "\n".join(part for part in parts if part) or text.strip()
    for speakers in _SPEAKERS:
        if match := speakers.match(text):
            return match["text"].strip() or text.strip()
    return text.strip()


# Sentences of these words alone ask for nothing, if one of them is in _GREETINGS.
_COURTESY = frozenset(
    """
    a able above again all am and any anything appreciate appreciated are as assist assistance be been below best bit
    brief briefly can cheers clear clearly concise concisely could dear do evening everyone favor favour following for
    friend friendly give glad good grateful greetings have hello help helpful here hey hi hope i i'd i'll i'm if in
    advance is it just keep kind kindly know let like lot love many may me moment morning much my nice of ok okay one
    out please pleased point possible precise quick quickly really reply respond response short simple so some
    something soon sorry sure take thank thankful thanks that the there these thing this time to trouble try very
    wanted was well when will with wonder wondering would you your
    """.split()
)
_GREETINGS = frozenset(
    "appreciate appreciated assist cheers dear evening friend glad grateful greetings hello help hey hi kind kindly"
    " morning please pleased sorry thank thankful thanks".split()
)
_WORD = re.compile(r"[\w']+")


def without_courtesy(text: str) -> str:
    """Return the text without leading and trailing sentences of nothing but courtesy; one of nothing else as it is."""
    parts = _sentences(text)
    first, last = 0, len(parts)
    while first < last and _courteous(parts[first]):
        first += 1
    while first < last and _courteous(parts[last - 1]):
        last -= 1
    return "".join(parts[first:last]).strip() if 0 < last - first < len(parts) else text


def _courteous(sentence: str) -> bool:
    words = set(_WORD.findall(sentence[:LONGEST_COURTESY].lower().replace("’", "'")))
    return len(sentence) < LONGEST_COURTESY and words <= _COURTESY and not words.isdisjoint(_GREETINGS)


def _sentences(text: str) -> list[str]:
    """Return the sentences and lines of a text, each with the gap behind it: together they are the text."""
    ends = [match.end() for match in _SENTENCE.finditer(text)]
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True) if start < end]


_SENTENCE = re.compile(r"(?<=[.!?:])[ \t]+|(?<=[。！？])|\s{0,9}\n\s{0,99}")


def spans(text: str) -> list[str]:
    """Return up to MAX_SPANS different texts that may be the question itself, the unwrapped whole first.

    The others lack the first sentence or line, or the last one, or are the longest paragraph.
    """
    whole = unwrap(text)
    cuts = [match.span() for match in _SENTENCE.finditer(whole) if match.start() > 0 and match.end() < len(whole)]
    found = [whole]
    if cuts:
        found += [whole[cuts[0][1] :], whole[: cuts[-1][0]], max(re.split(r"\n\s{0,9}\n", whole), key=len)]
    parts = dict.fromkeys(part.strip() for part in found)
    kept = [part for part in parts if part == whole or len(part) >= MIN_SPAN]
    return kept[:MAX_SPANS]


# Not what anybody is expected to send word for word: their use is the spread they give to the features.
NUISANCES: tuple[Callable[[str], str], ...] = (
    lambda text: f"Question: {text}",
    lambda text: f"I need some help here.\n{text}",
    lambda text: f"Task:\n{text}\nAnswer:",
    lambda text: f"{text}\nThink it through and then give your answer.",
    lambda text: f"Here is what I have to do, and I am stuck: {text}",
    lambda text: f'"{text}"',
    lambda text: f"{text}\n\nResponse:",
    lambda text: f"### Prompt\n\n{text}\n\n### Completion\n",
    lambda text: text.upper(),
    lambda text: " ".join(text.split()),
)


def nuisance(text: str, number: int) -> str:
    """Return the text in the nuisance of that number, counted round and round."""
    return NUISANCES[number % len(NUISANCES)](text)


def part(text: str, number: int) -> str:
    """Return the last one to eight words: what is sent by people who leave the instruction out."""
    return " ".join(text.split()[-(1 + number % 8) :]) or text
