"""All servers of OpenStack Swift in one process: all_of_swift.py ETC PROXY ACCOUNT CONTAINER OBJECT."""

import sys

import eventlet

eventlet.monkey_patch()

from eventlet import listen, wsgi  # noqa: E402
from swift.common import utils  # noqa: E402
from swift.common.middleware import memcache  # noqa: E402
from swift.common.wsgi import SwiftHttpProtocol, loadapp  # noqa: E402


class Memory:
    """A dictionary in place of memcached: there is one process."""

    memcache_servers = []

    def __init__(self):
        self.values = {}

    def get(self, key, raise_on_error=False):
        return self.values.get(key)

    def set(self, key, value, **_):
        self.values[key] = value

    def incr(self, key, delta=1, **_):
        self.values[key] = int(self.values.get(key, 0)) + int(delta)
        return self.values[key]

    def decr(self, key, delta=1, **_):
        return self.incr(key, -delta)

    def delete(self, key, **_):
        self.values.pop(key, None)

    def set_multi(self, mapping, _server_key, **_):
        self.values.update(mapping)

    def get_multi(self, keys, _server_key):
        return [self.values.get(key) for key in keys]


def main():
    etc, *ports = sys.argv[1:]
    utils.set_swift_dir(etc)
    utils.validate_configuration()
    memory = Memory()
    memcache.MemcacheRing = lambda *_, **__: memory
    utils.get_logger({}, "kiln")
    pool = eventlet.GreenPool(200)
    for name, port in zip(("proxy", "account", "container", "object"), ports):
        app = loadapp(f"{etc}/{name}-server.conf", global_conf={"log_name": name})
        socket = listen(("127.0.0.1", int(port)), reuse_addr=True)
        pool.spawn_n(
            wsgi.server, socket, app, None, protocol=SwiftHttpProtocol, log_output=False
        )
    pool.waitall()


main()
