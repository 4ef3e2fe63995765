import threading

from orlop.hookspecs import hookimpl

release = threading.Event()  # set by the test's teardown, so that no thread outlives it


@hookimpl
def node_filters(settings):
    release.wait(60)
    return []
