from orlop.hookspecs import hookimpl

failing = True


@hookimpl
def node_filters(settings):
    if failing:
        raise RuntimeError("no filters today")
    return []


@hookimpl
def node_scorers(settings):
    if failing:
        yield from ()
        raise SystemExit(4)
    yield from ()
