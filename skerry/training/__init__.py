"""Local training: the Trainer interface and its engines; the only home of torch."""
