def frameworks():
    return []
