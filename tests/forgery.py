"""Index folders that lie: changed by hand and sealed again, as somebody who means harm would do it."""

import hashlib
import json
from pathlib import Path

from index.manifest import HEAD, as_json


def edit_manifest(folder, change, seal=True):
    """`change` the fields of the manifest in place; without `seal` its old checksum stays."""
    path = Path(folder) / "winnow.json"
    fields = json.loads(path.read_bytes())
    change(fields)
    if seal:
        fields.pop("sha256", None)
        fields["sha256"] = hashlib.sha256(as_json(fields)).hexdigest()
    path.write_bytes(as_json(fields))


def edit_description(folder, change, part="part-000001"):
    """`change` the fields of a part's description in place, and have the manifest vouch for it."""
    path = Path(folder) / part / "part.json"
    fields = json.loads(path.read_bytes())
    change(fields)
    replace_description(folder, as_json(fields), part)


def edit_file(folder, name, change, part="part-000001"):
    """`change` the bytes (a bytearray) of a part's file in place, and have its description and the manifest vouch for it."""
    path = Path(folder) / part / name
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    stored = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    stored["head"] = hashlib.sha256(data[:HEAD]).hexdigest()
    edit_description(folder, lambda fields: fields["files"][name].update(stored), part)


def replace_description(folder, data, part="part-000001"):
    """Any bytes as a part's description, with the manifest vouching for them."""
    (Path(folder) / part / "part.json").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    edit_manifest(folder, lambda fields: fields["parts"][part].update(sha256=digest))
