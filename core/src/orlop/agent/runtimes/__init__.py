"""How a node runs a task: the interface, and the two runtimes that come with Orlop."""
