"""The page for people at `/`."""

from __future__ import annotations

from typing import Final

from orlop.pages import routes_of_page

ROUTES: Final = routes_of_page(__name__)
