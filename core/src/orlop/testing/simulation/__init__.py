"""Whole clusters in one thread, on virtual time, with a seed: servers, nodes, a store, and everything that breaks.

The classes that decide are those of the real thing: election, mirror, pipeline, writer, kernel, frameworks, sessions,
liveness, the agent's worker. Only their shells are simulated, together with what lies between and below them: the
store's answers (late, lost, refused), the network (slow, lossy, cut, in one direction too), nodes (crashing, with or
without their disk, with a wrong clock), runtimes (slow, failing, restarted, with names that are held). After each step
what must hold is checked, and after healing what must come about. Each fault that makes a difference is counted.

The same seed gives the same history, byte for byte. What happens to a cluster is a plan that is made from the seed
beforehand, so that a failure can be shrunk: operations are taken out of the plan for as long as it still fails.
"""
