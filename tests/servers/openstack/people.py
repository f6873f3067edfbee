"""people.py KEYSTONE FILE: makes the users and services of the tests, through Keystone's own API, and
writes an application credential into FILE. The `openstack` client would take seconds for each."""

import json
import sys
import time
import urllib.error
import urllib.request

keystone, file = sys.argv[1:]


def call(method, path, body=None, token=None):
    headers = {"Content-Type": "application/json"}
    if token:
        headers["X-Auth-Token"] = token
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(keystone + path, data, headers, method=method)
    with urllib.request.urlopen(request) as answer:
        text = answer.read()
        return (json.loads(text) if text else None), answer.headers


def login(name, password, project):
    user = {"name": name, "password": password, "domain": {"id": "default"}}
    scope = {"project": {"name": project, "domain": {"id": "default"}}}
    auth = {"identity": {"methods": ["password"], "password": {"user": user}}, "scope": scope}
    answer, headers = call("POST", "/auth/tokens", {"auth": auth})
    return headers["X-Subject-Token"], answer["token"]["user"]["id"]


for _ in range(600):
    try:
        call("GET", "/")
        break
    except urllib.error.HTTPError:
        raise
    except OSError:
        time.sleep(0.1)

admin, _ = login("admin", "admin", "admin")
roles = {role["name"]: role["id"] for role in call("GET", "/roles", token=admin)[0]["roles"]}


def project(name):
    body = {"project": {"name": name, "domain_id": "default"}}
    return call("POST", "/projects", body, admin)[0]["project"]["id"]


def user(name, project, role):
    body = {"user": {"name": name, "password": name, "domain_id": "default"}}
    user = call("POST", "/users", body, admin)[0]["user"]["id"]
    call("PUT", f"/projects/{project}/users/{user}/roles/{roles[role]}", token=admin)
    return user


user("glance", project("service"), "admin")
images = project("images")
user("ann", images, "member")
body = {"service": {"type": "image", "name": "glance"}}
service = call("POST", "/services", body, admin)[0]["service"]["id"]
body = {"interface": "public", "region_id": "one", "service_id": service, "url": "http://127.0.0.1:1"}
call("POST", "/endpoints", {"endpoint": body}, admin)

token, ann = login("ann", "ann", "images")
body = {"application_credential": {"name": "kiln", "secret": "open-sesame"}}
made, _ = call("POST", f"/users/{ann}/application_credentials", body, token)
made = made["application_credential"]
with open(file, "w") as out:
    json.dump({"id": made["id"], "secret": made["secret"], "project": images, "user": ann}, out)
