import threading

release = threading.Event()  # set by the test's teardown, so that no thread outlives it
release.wait(60)
