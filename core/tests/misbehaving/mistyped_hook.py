from orlop.hookspecs import hookimpl


@hookimpl
def framework():
    return []


@hookimpl
def stores():
    return {}


@hookimpl(optionalhook=True)
def hook_of_a_later_version():
    return []
