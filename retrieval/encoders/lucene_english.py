"""Lucene's EnglishAnalyzer with the Porter stemmer: the tokens that Anserini's published BM25 figures rest on.

StandardTokenizer's word breaks (Unicode UAX #29), possessive 's removed, lower case, 33 stop words, Porter's stemmer.
"""

from __future__ import annotations

import sys
from functools import lru_cache

import regex
from nltk.stem.porter import PorterStemmer

# UAX #29 words that hold a letter, digit or emoji; scripts written without spaces (line-break class SA) stay whole
WORD = regex.compile(
    r"(?w)\p{Line_Break=SA}[\p{Line_Break=SA}\p{Mark}]*"
    r"|(?<!\p{Connector_Punctuation})\p{Connector_Punctuation}*+[\p{Alphabetic}\p{Nd}\p{Extended_Pictographic}\p{Regional_Indicator}].*?\b"
)
LONGEST_TOKEN = 255  # characters; StandardTokenizer cuts a longer word into pieces
STOP_WORDS = frozenset(
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "
    "this to was will with".split()
)
STEMMER = PorterStemmer(mode=PorterStemmer.MARTIN_EXTENSIONS)  # Porter's own revision, which Lucene ported


def analyze(text: str) -> list[str]:
    """The tokens of `text`, in order, stop words left out."""
    tokens = []
    for word in WORD.findall(text):
        for start in range(0, len(word), LONGEST_TOKEN):
            token = normalised(word[start : start + LONGEST_TOKEN])
            if token:
                tokens.append(token)
    return tokens


@lru_cache(maxsize=1 << 18)
def normalised(word: str) -> str:
    """The indexed form of one word; empty for a stop word."""
    if word[-2:] in POSSESSIVES:
        word = word[:-2]
    word = lower_case(word)
    return "" if word in STOP_WORDS else sys.intern(STEMMER.stem(word, to_lowercase=False))


POSSESSIVES = {
    apostrophe + s for apostrophe in ("'", "\N{RIGHT SINGLE QUOTATION MARK}", "\N{FULLWIDTH APOSTROPHE}") for s in "sS"
}


def lower_case(word: str) -> str:
    """Lower case character by character as Java does it: no final sigma, and one character stays one."""
    return word.lower() if word.isascii() else "".join(character.lower()[:1] for character in word)
