"""The embedded side of the doors: PostgreSQL and mosquitto as our own child processes.

Only `edge run` and commands that work without a running appliance open these. The rest of the code gets an address
(`database.dsn`, `broker.url`) and cannot tell which side it is on.
"""
