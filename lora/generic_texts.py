"""Short texts about nothing in particular: what an expert's response to a query is compared with.

Written for this purpose, in the forms that queries have: sentences in a few languages, questions, lists, names, code,
numbers, single words. None is a task of an expert here. A change of one is another set, with another digest, and
makes every stored baseline be computed anew.
"""

import hashlib
import json

GENERIC_TEXTS = (
    "The committee will meet again on the first Monday after the holidays.",
    "A good soup starts with onions that are cooked slowly in butter.",
    "What would you do if the train were late and the last bus had left?",
    "Rivers carry sand and stones from the mountains to the sea.",
    "Please find the signed contract attached; I look forward to your reply.",
    "She opened the window, listened for a while, and closed it again.",
    "Der Zug fährt um acht Uhr von Gleis zwei ab.",
    "La bibliothèque est fermée le dimanche matin.",
    "def area(width, height):\n    return width * height",
    "SELECT title, price FROM books WHERE price < 20 ORDER BY title;",
    "To change a tyre, loosen the nuts before you lift the car.",
    "The patient reports mild pain in the left knee after running.",
    "Once upon a time, a fox lived at the edge of a dark forest.",
    "Temperature 21.4, humidity 63 %, wind 12 km/h from the west.",
    "milk, eggs, two lemons, bread, a bag of rice",
    "Explain in two sentences why the sky looks blue.",
    "https://example.org/articles/gardening?page=4",
    "Honey is sweet because",
    "TOTAL 48.90 EUR, VAT included, paid by card",
    "The quick answer is no, but the long answer is more interesting.",
    "x^2 + 3x = 10",
    "Kitchen table, oak, hardly used, collection only",
    "El museo abre todos los días menos el lunes.",
    "Breaking: storm closes two bridges in the north",
    "umbrella",
    "a narrow street with red lanterns at night",
    "Dr. Amelia Stone, 14 Harbour Road, Wellington",
    "7 14 21 28 35",
    "Thanks a lot!!! best day ever :)",
    "In 1869 the two ends of the railway met in the desert.",
    '<p class="note">Water the plants twice a week.</p>',
    "Q: How far is the moon?",
    "ERROR 404: the file was not found on this server",
    "Сегодня утром шёл снег.",
    "今日はとても暑いです。",
    "If all cats sleep and Tom is a cat, then Tom sleeps.",
    "turn left after the church and follow the river",
    "The orchestra tuned its instruments while the hall filled.",
    "Cells divide, and each new cell receives a copy of the genome.",
    "Could you repeat that more slowly?",
    "chess, football, rowing",
    "Interest is paid once a year on the balance of the account.",
    "no",
    "He said that he would come, although nobody had asked him.",
    "name: garden\nversion: 2\nopen: true",
    "The second half of the novel is weaker than the first.",
    "3.14159",
    "Wash at 40 degrees, do not tumble dry",
)
DIGEST = hashlib.sha256(json.dumps(GENERIC_TEXTS).encode()).hexdigest()
