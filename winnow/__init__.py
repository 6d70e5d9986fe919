"""The command `winnow`: one file a subcommand, parsing and printing only."""
