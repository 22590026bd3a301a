"""What is learned: bundles, data sources, partitions, built-in tasks."""
