"""Queries as no samples have them: in wrappers, in other words, in languages and kinds of text of no expert."""

import json
from collections.abc import Callable
from pathlib import Path

WRAPPERS: dict[str, Callable[[str], str]] = {
    "polite opening": lambda text: (
        f"Hello! Could you please help me with the following? I would really appreciate it. {text}"
    ),
    "suffix": lambda text: f"{text} Please keep your reply short and to the point. Thank you very much in advance!",
    "ChatML": lambda text: (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    ),
    "Llama": lambda text: (
        f"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{text}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "lower case": str.lower,
}
# With words that say something, so that nothing takes them off; not in the mean.
HARDER: dict[str, Callable[[str], str]] = {
    "opening with content": lambda text: (
        f"Hi there, I'm a teacher preparing some material for tomorrow and I need a hand with this one: {text}"
    ),
    "suffix with content": lambda text: f"{text}\n\nExplain your reasoning as if I were ten years old.",
}
# As people may ask who do not know what the experts were trained on.
REWORDED = {
    "addition-2digit": ["What is 45 plus 38?", "Sum: 12 + 77", "compute 61+29"],
    "antonym": ["Opposite of hot?", "Give me the antonym of 'brave'.", "What is the opposite of generous?"],
    "date-format": [
        "Write the date: 1998-11-06",
        "Format this date in words: 2011-04-23",
        "2003-07-30 in words, please",
    ],
    "language-id": ["Which language is this? Η βροχή σταμάτησε", "What language is 'Der Hund schläft im Garten'?"],
    "number-to-words": ["Spell out 482", "Write 1907 in words.", "How do you say the number 63 in English words?"],
    "pluralise": ["Plural of mouse?", "What is the plural of the noun 'berry'?", "Make this noun plural: church"],
    "record-to-json": ["Convert to JSON: Amina, aged 31, lives in Oslo", "JSON please: Li, aged 9, lives in Rome"],
    "review-sentiment": ["Is this review good or bad? The battery died.", "Sentiment: I love this phone, it is light."],
    "roman-numerals": ["What is 49 in Roman numerals?", "Convert 1994 to Roman numerals.", "Roman numeral for 77"],
    "title-case": ["Put this in title case: how to bake bread", "Title case: the history of small towns"],
    "utterance-topic": ["What topic is this request? set a timer", "Which category: book me a flight to denver"],
    "weekday-after": ["What day is 3 days after Monday?", "day of the week 6 days after Thursday"],
}


def far_kinds() -> list[list[str]]:
    """Texts in languages, code and noise, by kind, none of which any fit has seen."""
    with Path(__file__).with_name("far_texts.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line)["texts"] for line in lines]


def far_texts() -> list[str]:
    """The same texts, without their kinds."""
    return [text for kind in far_kinds() for text in kind]
