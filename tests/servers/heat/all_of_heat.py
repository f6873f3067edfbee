"""Heat's API and engine in one process, over a message bus in memory: all_of_heat.py --config-file FILE."""

import eventlet

eventlet.monkey_patch(os=False)

import sys  # noqa: E402

from eventlet import wsgi  # noqa: E402
from heat import version  # noqa: E402
from heat.cmd import engine  # noqa: E402
from heat.common import config, messaging  # noqa: E402
from heat.common import wsgi as heat_wsgi  # noqa: E402, F401 (registers options)
from heat.engine.clients.os import swift  # noqa: E402
from oslo_config import cfg  # noqa: E402
from oslo_log import log as logging  # noqa: E402

logging.register_options(cfg.CONF)
cfg.CONF(
    sys.argv[1:],
    project="heat",
    prog="heat-all",
    version=version.version_info.version_string(),
)
logging.setup(cfg.CONF, "heat-all")
config.set_config_defaults()
messaging.setup()
# Heat 19 compares what it reads from Swift, bytes, with a text: a signal that has not come yet would
# be a signal that cannot be read.
swift.IN_PROGRESS = b"in progress"
launcher = engine.launch_engine(setup_logging=False)
app = config.load_paste_app("heat-api")
listener = eventlet.listen((cfg.CONF.heat_api.bind_host, cfg.CONF.heat_api.bind_port))
wsgi.server(listener, app, log_output=False)
