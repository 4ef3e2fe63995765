"""The operator's HTTP API: what an operator, a script or a monitoring system sees and does.

`interface` says what a server must offer; `application` makes an aiohttp application of such a server. Each resource
is a module; what they answer is made by the pure functions of `documents`.
"""
