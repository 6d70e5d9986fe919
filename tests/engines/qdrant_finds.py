"""EXPORT FOLDER, then requests as JSON on standard input -> (document id, score) of the hits of each, by Qdrant in this process."""

import json
import sys
import tempfile
from pathlib import Path

import qdrant_edge as qdrant

folder = Path(sys.argv[1])
collection = json.loads((folder / "collection.json").read_text())
config = qdrant.EdgeConfig(
    sparse_vectors={
        name: qdrant.EdgeSparseVectorParams(**options) for name, options in collection["sparse_vectors"].items()
    }
)
answers = []
with tempfile.TemporaryDirectory() as work:
    shard = qdrant.EdgeShard.create(work, config)
    for file in sorted(folder.glob("points-*.jsonl")):
        for line in file.read_text().splitlines():
            points = [
                qdrant.Point(
                    point["id"],
                    {name: qdrant.SparseVector(**vector) for name, vector in point["vector"].items()},
                    point["payload"],
                )
                for point in json.loads(line)["points"]
            ]
            shard.update(qdrant.UpdateOperation.upsert_points(points))
    for request in json.load(sys.stdin):
        query = qdrant.Query.Nearest(qdrant.SparseVector(**request["query"]), using=request["using"])
        hits = shard.query(
            qdrant.QueryRequest(limit=request["limit"], query=query, with_payload=request["with_payload"])
        )
        answers.append([[hit.payload["id"], hit.score] for hit in hits])
    shard.close()
print(json.dumps(answers))
