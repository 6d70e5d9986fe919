"""Train a model: a sparse encoder, or a decoder that reranks."""

from __future__ import annotations

import argparse

from winnow import train_blockrank, train_sparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(required=True, metavar="KIND", dest="kind")
    for name, module in {"sparse": train_sparse, "blockrank": train_blockrank}.items():
        summary = (module.__doc__ or "").strip()
        kind = kinds.add_parser(name, help=summary, description=summary)
        module.add_arguments(kind)
        kind.set_defaults(train=module.run)


def run(arguments: argparse.Namespace) -> int:
    found: int = arguments.train(arguments)
    return found
