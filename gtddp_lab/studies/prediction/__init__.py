"""How well a part of the network predicts for all of it, and how much of that is needed."""
