"""How does a sparse encoder learn? Examples, models with gradients, losses, regularisers and teachers."""
