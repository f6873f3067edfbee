"""validate.py FILE…: whether Heat's own engine takes each file for a template; one line of JSON each.

Three questions go to a cloud, and are answered here: what services it has, what its images, flavors,
keys and networks are called, and whether the image fits the flavor."""

import json
import logging
import sys

logging.disable(logging.CRITICAL)
from heat.common import context, template_format  # noqa: E402
from heat.engine import constraints, environment, resource, resources, stack, template  # noqa: E402
from heat.engine.resources.openstack.nova import server  # noqa: E402
from oslo_config import cfg  # noqa: E402

cfg.CONF([], project="heat", prog="heat-engine", default_config_files=[])
cfg.CONF.set_override("connection", "sqlite://", group="database")
resource.Resource.is_service_available = classmethod(lambda cls, context: (True, None))
constraints.CustomConstraint.validate = lambda self, *args, **kwargs: None
server.Server._validate_image_flavor = lambda *args, **kwargs: None
resources.initialise()
for path in sys.argv[1:]:
    try:
        with open(path) as file:
            parsed = template_format.parse(file.read())
        given = {
            name: "given"
            for name, parameter in parsed["parameters"].items()
            if "default" not in parameter
        }
        env = environment.Environment({"parameters": given})
        made = template.Template(parsed, env=env)
        made.validate()
        who = context.RequestContext(
            is_admin=True, roles=[], auth_token="x", user_id="u", username="u",
            project_id="p", overwrite=False,
        )
        whole = stack.Stack(who, "kiln", made)
        whole.validate()
        answer = {"resources": {name: one.type() for name, one in whole.resources.items()}}
        answer["user_data"] = parsed["resources"]["server"]["properties"].get("user_data")
    except Exception as error:  # noqa: BLE001 (each is an answer)
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer))
