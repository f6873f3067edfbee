"""services.py KEYSTONE HEAT SWIFT: makes the users and endpoints of Heat and of Swift in the Keystone
of `../openstack`, whose addresses end in a port of 127.0.0.1."""

import json
import sys
import urllib.request

keystone, heat, swift = sys.argv[1:]


def call(method, path, body=None, token=None):
    headers = {"Content-Type": "application/json"}
    if token:
        headers["X-Auth-Token"] = token
    data = json.dumps(body).encode() if body is not None else None
    url = f"http://127.0.0.1:{keystone}/v3{path}"
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request) as answer:
        text = answer.read()
        return (json.loads(text) if text else None), answer.headers


def login():
    user = {"name": "admin", "password": "admin", "domain": {"id": "default"}}
    scope = {"project": {"name": "admin", "domain": {"id": "default"}}}
    auth = {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}
    return call("POST", "/auth/tokens", {"auth": auth})[1]["X-Subject-Token"]


admin = login()
roles = {role["name"]: role["id"] for role in call("GET", "/roles", token=admin)[0]["roles"]}
projects = call("GET", "/projects", token=admin)[0]["projects"]
service_project = next(one["id"] for one in projects if one["name"] == "service")
for name in ("heat", "swift"):
    body = {"user": {"name": name, "password": name, "domain_id": "default"}}
    user = call("POST", "/users", body, admin)[0]["user"]["id"]
    call("PUT", f"/projects/{service_project}/users/{user}/roles/{roles['admin']}", token=admin)
# Heat asks for Keystone as an administrator does.
services = call("GET", "/services", token=admin)[0]["services"]
identity = next(one["id"] for one in services if one["type"] == "identity")
for interface in ("internal", "admin"):
    body = {"interface": interface, "region_id": "one", "service_id": identity}
    body["url"] = f"http://127.0.0.1:{keystone}/v3"
    call("POST", "/endpoints", {"endpoint": body}, admin)
for name, kind, url in (
    ("heat", "orchestration", f"http://127.0.0.1:{heat}/v1/%(tenant_id)s"),
    ("swift", "object-store", f"http://127.0.0.1:{swift}/v1/AUTH_%(tenant_id)s"),
):
    body = {"service": {"type": kind, "name": name}}
    service = call("POST", "/services", body, admin)[0]["service"]["id"]
    for interface in ("public", "internal", "admin"):
        body = {"interface": interface, "region_id": "one", "service_id": service, "url": url}
        call("POST", "/endpoints", {"endpoint": body}, admin)
