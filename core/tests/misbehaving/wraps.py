from orlop.hookspecs import hookimpl


@hookimpl(wrapper=True)
def frameworks():
    return (yield)
