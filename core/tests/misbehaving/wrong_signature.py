from orlop.hookspecs import hookimpl


@hookimpl
def frameworks():
    return []


@hookimpl
def routes(host, settings, port):
    return []
