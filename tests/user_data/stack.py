"""stack.py KEYSTONE TEMPLATE SCRATCH: a stack of a live Heat, and the scripts that its server would run.

There is no Nova here: in place of the server stands a value with its user data, as Heat has resolved
it. That is taken apart by cloud-init's own code, and its scripts are run in the order in which
cloud-init would. Prints JSON: what became of the stack, and its output `signal`."""

import json
import logging
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

import yaml
from cloudinit import helpers
from cloudinit.handlers.shell_script import ShellScriptPartHandler
from cloudinit.user_data import UserDataProcessor
from cloudinit.util import fully_decoded_payload

logging.disable(logging.CRITICAL)
keystone, template, scratch = sys.argv[1:]


def call(method, url, body=None, headers=()):
    data = json.dumps(body).encode() if body is not None else None
    headers = {"Content-Type": "application/json", **dict(headers)}
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            text = answer.read()
            return (json.loads(text) if text else None), answer.headers
    except urllib.error.HTTPError as error:
        sys.exit(f"{method} {url}: {error.code}: {error.read()[:2000]}")


user = {"name": "ann", "password": "ann", "domain": {"id": "default"}}
scope = {"project": {"name": "images", "domain": {"id": "default"}}}
auth = {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}
token, headers = call("POST", f"{keystone}/v3/auth/tokens", {"auth": auth})
# Heat asks Swift in the user's name, and has no trusts here.
who = {"X-Auth-Token": headers["X-Subject-Token"], "X-Auth-User": "ann", "X-Auth-Key": "ann"}
heat = next(
    endpoint["url"]
    for service in token["token"]["catalog"]
    if service["type"] == "orchestration"
    for endpoint in service["endpoints"]
    if endpoint["interface"] == "public"
)

with open(template) as file:
    parsed = yaml.safe_load(file)
server = parsed["resources"]["server"]["properties"]
parsed["resources"]["server"] = {
    "type": "OS::Heat::Value",
    "properties": {"value": server["user_data"]},
}
del parsed["parameters"], parsed["outputs"]["addresses"]
parsed["outputs"]["user_data"] = {"value": {"get_attr": ["server", "value"]}}
name = os.path.basename(template).split(".")[0]
made, _ = call("POST", f"{heat}/stacks", {"stack_name": name, "template": parsed}, who.items())
stack = f"{heat}/stacks/{name}/{made['stack']['id']}"


def state():
    return call("GET", stack, headers=who.items())[0]["stack"]


def until(wanted):
    for _ in range(300):
        now = wanted()
        if now is not None:
            return now
        time.sleep(0.2)
    sys.exit(f"the stack is in state {state()['stack_status']}: {state()['stack_status_reason']}")


def resolved():
    now = state()
    if now["stack_status"] == "CREATE_FAILED":
        sys.exit(f"the stack failed early: {now['stack_status_reason']}")
    found = {output["output_key"]: output.get("output_value") for output in now["outputs"]}
    return found.get("user_data")


user_data = until(resolved)
before = state()["stack_status"]
paths = helpers.Paths({"cloud_dir": scratch, "run_dir": scratch}, None)
handler = ShellScriptPartHandler(paths)
handler.script_dir = os.path.join(scratch, "scripts")
os.makedirs(handler.script_dir)
for part in UserDataProcessor(paths).process(user_data).walk():
    if part.get_content_type() == "text/x-shellscript":
        handler.handle_part(
            None, "text/x-shellscript", part.get_filename(), fully_decoded_payload(part), "always"
        )
ran = {}
for script in sorted(os.listdir(handler.script_dir)):
    done = subprocess.run(
        [os.path.join(handler.script_dir, script)], capture_output=True, text=True, timeout=60
    )
    ran[script] = [done.returncode, done.stderr]


def over():
    now = state()
    return None if now["stack_status"] == "CREATE_IN_PROGRESS" else now


after = until(over)
outputs = {output["output_key"]: output.get("output_value") for output in after["outputs"]}
json.dump(
    {
        "before": before,
        "ran": ran,
        "after": after["stack_status"],
        "reason": after["stack_status_reason"],
        "signal": outputs.get("signal"),
    },
    sys.stdout,
)
