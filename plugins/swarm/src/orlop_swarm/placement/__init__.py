"""Classic Swarm's placement: expressions, filters and strategies, pure, and as hooks of the kernel."""
