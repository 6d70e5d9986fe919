"""FILE -> header, postings and documents of a CIFF file, as ciff-toolkit reads them."""

import json
import sys

from ciff_toolkit.read import CiffReader

with CiffReader(sys.argv[1]) as reader:
    header = reader.read_header()
    lists = {}
    for one in reader.read_postings_lists():
        docs, doc = [], 0
        for posting in one.postings:
            doc += posting.docid
            docs.append([doc, posting.tf])
        lists[one.term] = {"df": one.df, "cf": one.cf, "postings": docs}
    documents = [[one.docid, one.collection_docid, one.doclength] for one in reader.read_documents()]
names = "version", "num_postings_lists", "num_docs", "total_postings_lists", "total_docs", "total_terms_in_collection"
told = {name: getattr(header, name) for name in names}
print(json.dumps([told, header.average_doclength, list(lists.items()), documents]))
