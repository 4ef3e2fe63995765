"""The Docker API of the pool: an aiohttp application.

* From a request to its handler: `application`, `bodies`, `problems`; what handlers work with: `services`, `serving`.
* One module per resource: `containers` (`listing`: all of them), `exec`, `images`, `builds` (`contexts`), `networks`,
  `volumes`, `events`, `system`; and `balancing`, which Docker's API has not.
* How engines are asked: one and its answer passed on, `relaying`, `hijacking`; many, `calling`; many whose answers are
  streams, `broadcasting`; from one to others, `copying`.
* Which engine: of a container, `finding`; for a new one, `looking`; for a network or volume, `homes`; for a build,
  `placing`.
* Containers as tasks of the kernel: `kernel_containers`, `creating`, `ordering`, `known`, `overview`.
* What is kept beside requests: `keeping`, `remembering`, `versions`, `volume_places`, `recurring`.
"""

from __future__ import annotations

from orlop_swarm.http.application import make_application
from orlop_swarm.http.services import SERVICES, Containers, Services

__all__ = ["SERVICES", "Containers", "Services", "make_application"]
