"""The leader's shell: the commit loop, agents' sessions, the plugin host."""
