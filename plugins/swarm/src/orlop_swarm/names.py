"""Names for containers that were given none: a word for how, and one for what, as of a ship. And which names may be
given, as engines say."""

from __future__ import annotations

import re
from typing import Final

HOW: Final = (
    "able", "ample", "ancient", "bold", "brave", "bright", "brisk", "calm", "careful", "clear", "clever", "cosy",
    "daring", "deep", "eager", "early", "even", "fair", "faithful", "fast", "fearless", "firm", "fresh", "friendly",
    "gallant", "gentle", "glad", "grand", "happy", "hardy", "hearty", "honest", "humble", "jolly", "keen", "kind",
    "lively", "loyal", "lucky", "mellow", "merry", "mighty", "modest", "noble", "patient", "peaceful", "plucky",
    "polite", "proud", "quick", "quiet", "ready", "robust", "salty", "serene", "sharp", "silent", "sober", "steady",
    "sturdy", "sunny", "swift", "tidy", "tireless", "trusty", "upright", "vivid", "warm", "wary", "weathered", "wise",
    "witty", "worthy", "zealous",
)  # fmt: skip
WHAT: Final = (
    "anchor", "ballast", "barque", "beacon", "berth", "binnacle", "boatswain", "bollard", "boom", "bow", "bowsprit",
    "brig", "bulkhead", "buoy", "cabin", "canvas", "capstan", "cargo", "chart", "clipper", "cockpit", "compass",
    "cutter", "davit", "deck", "dinghy", "ensign", "fathom", "fender", "ferry", "figurehead", "flag", "forecastle",
    "frigate", "funnel", "galley", "gangway", "halyard", "harbour", "hatch", "hawser", "helm", "hull", "jetty", "jib",
    "keel", "ketch", "lantern", "lighthouse", "log", "mainsail", "mast", "mooring", "oar", "pennant", "pilot", "port",
    "propeller", "quay", "rigging", "rudder", "sail", "schooner", "sextant", "sloop", "spar", "stern", "tackle",
    "tender", "tide", "tiller", "topsail", "trawler", "tug", "wake", "wharf", "winch", "yard",
)  # fmt: skip
#: How often words alone are tried before a number is added.
WORDS_TRIED: Final = 8

_CHARACTERS: Final = "[a-zA-Z0-9][a-zA-Z0-9_.-]"
_ALLOWED: Final = re.compile(f"{_CHARACTERS}+")


def name_of(number: int, attempt: int = 0) -> str:
    """number: a large one, by chance. attempt: how often its names were taken already."""
    how, what = HOW[(number >> 7 * attempt) % len(HOW)], WHAT[(number >> 7 * attempt) // 97 % len(WHAT)]
    return f"{how}_{what}" if attempt < WORDS_TRIED else f"{how}_{what}{(number + attempt) % 10**9}"


def refusal(name: str, shown: str = "") -> str:
    """Why no container may have the name, in an engine's words; empty: it may. shown: instead of the name."""
    return (
        "" if _ALLOWED.fullmatch(name) else f"Invalid container name ({shown or name}), only {_CHARACTERS} are allowed"
    )
