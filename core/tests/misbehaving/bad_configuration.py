from orlop.hookspecs import hookimpl


class Config:
    """Not an attrs class."""

    copies = 3


@hookimpl
def configuration():
    return Config
