"""The words of an English text as NLTK's `word_tokenize` finds them, and those that PromptReps leaves out.

Neither needs NLTK's data. `word_tokenize` has Punkt split sentences first, because only the last full stop of a sentence becomes a
word of its own; here a sentence ends after each . ! or ? that a blank follows. So only the full stop of an abbreviation or initial
that Punkt knows ("dr.", "j.") differs: here it is parted from its word, and left out as punctuation.
"""

from __future__ import annotations

import re
import string

from nltk.tokenize import NLTKWordTokenizer

SENTENCE_END = re.compile(r"(?<=[.?!])\s+")
TOKENIZER = NLTKWordTokenizer()

# The 198 words of stopwords/english in nltk_data: Martin Porter's list, with NLTK's halves of contractions. Older copies lack 19 of
# the contractions (he'd, they're, ...), which is the same here: the tokenizer parts them (they 're).
STOP_WORDS = frozenset(
    """
    a about above after again against ain all am an and any are aren aren't as at be because been before being below between both
    but by can couldn couldn't d did didn didn't do does doesn doesn't doing don don't down during each few for from further had
    hadn hadn't has hasn hasn't have haven haven't having he he'd he'll her here hers herself he's him himself his how i i'd if i'll
    i'm in into is isn isn't it it'd it'll it's its itself i've just ll m ma me mightn mightn't more most mustn mustn't my myself
    needn needn't no nor not now o of off on once only or other our ours ourselves out over own re s same shan shan't she she'd
    she'll she's should shouldn shouldn't should've so some such t than that that'll the their theirs them themselves then there
    these they they'd they'll they're they've this those through to too under until up ve very was wasn wasn't we we'd we'll we're
    were weren weren't we've what when where which while who whom why will with won won't wouldn wouldn't y you you'd you'll your
    you're yours yourself yourselves you've
    """.split()
)
LEFT_OUT = STOP_WORDS | set(string.punctuation)


def content_words(text: str) -> list[str]:
    """The words of the text in lower case, in order, without stop words and punctuation.

    >>> content_words("It's the Moon, which pulls the sea. Why?")
    ["'s", 'moon', 'pulls', 'sea']
    """
    sentences = SENTENCE_END.split(text.lower())
    return [word for sentence in sentences for word in TOKENIZER.tokenize(sentence) if word not in LEFT_OUT]
