"""How is this array computed fast? Pure functions over arrays; imports nothing from the rest of the project."""
