"""The server's process and the way into it: gateway, limits, routes, and Flower's SuperLink in ``flower/``."""
