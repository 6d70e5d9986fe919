"""Dense encoders: a text is one vector."""
