"""winnow.json: raw, and with the right checksum put in so that the fields themselves are attacked."""

import hashlib
import json

from fuzz.watch import demand, file_of, outcome, watched

from index.manifest import Manifest, parse_manifest, part_name, read_manifest, soundest_manifest

SOUND = Manifest("retriever", 3, 8, {"part-000001": "0" * 64, "part-000007": "a1" * 32}, {"segments": [{"a": 1.5}]})
SEEDS = [
    SOUND.as_bytes(),
    Manifest("note", 1, 1, {}, {}).as_bytes(),
    SOUND.as_bytes().replace(b'"version": 2', b'"version": 99'),
    SOUND.as_bytes().replace(b"1.5", b"1e999"),
    SOUND.as_bytes().replace(b"part-000007", b"../000007"),
]


def sealed(data):
    """The bytes with a line that vouches for them."""
    lines = [line for line in data.split(b"\n") if not line.startswith(b' "sha256": ')]
    digest = hashlib.sha256(b"\n".join(lines)).hexdigest().encode()
    return b"\n".join([lines[0], b' "sha256": "' + digest + b'",', *lines[1:]])


def attack(data):
    for written in (data, sealed(data)):
        path = file_of("winnow.json", written)
        with watched(len(written)):
            manifest, error = outcome(read_manifest, path.parent)
            soundest = soundest_manifest(path.parent)
        demand(soundest == manifest, f"{soundest} is not {manifest}")
        if error is not None:
            continue
        fields = json.loads(written)
        demand(list(manifest.parts) == list(fields["parts"]), f"other parts than written: {manifest}")
        for name in manifest.parts:
            number = int(name.removeprefix("part-"))
            demand(part_name(number) == name and number < manifest.next_part, f"{name} is no part of {manifest}")
        as_written = parse_manifest(manifest.as_bytes(), path)  # what was read can be committed again
        demand(as_written == manifest, f"{as_written} is not {manifest}")
