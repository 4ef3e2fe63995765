"""Real processes on hosts of their own, broken at random, with workloads inside: `make chaos`, `test_chaos.py`.

`cluster` is what is broken and how. A workload starts with the cluster, goes on meanwhile, and is checked after all is
healed: `marathon_apps`, `chronos_jobs`. What Chronos has done is judged by `checker`, which is pure, from `evidence`.
"""
