from orlop.hookspecs import hookimpl


@hookimpl
def frameworks():
    return ["not a framework"]
