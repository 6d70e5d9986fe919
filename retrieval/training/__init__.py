"""How does a model learn to rank? Losses, training lists, and a trainer that can be interrupted."""
