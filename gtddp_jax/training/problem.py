"""The loss that all runs minimise."""

import optax

LOSS = optax.softmax_cross_entropy_with_integer_labels
"""Loss of one sample: outputs [batch, classes] and labels [batch] to [batch]."""
