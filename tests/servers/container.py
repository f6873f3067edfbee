"""Makes a container on an emulator of Azure: container.py ADDRESS ACCOUNT KEY NAME."""

import base64
import email.utils
import hashlib
import hmac
import sys
import urllib.request

address, account, key, name = sys.argv[1:]
date, version = email.utils.formatdate(usegmt=True), "2021-08-06"
signed = "\n".join(
    ["PUT"] + [""] * 11
    + [f"x-ms-date:{date}", f"x-ms-version:{version}"]
    + [f"/{account}/{account}/{name}", "restype:container"]
)
digest = hmac.new(base64.b64decode(key), signed.encode(), hashlib.sha256).digest()
request = urllib.request.Request(
    f"http://{address}/{account}/{name}?restype=container",
    method="PUT",
    headers={
        "x-ms-date": date,
        "x-ms-version": version,
        "Authorization": f"SharedKey {account}:{base64.b64encode(digest).decode()}",
        "Content-Length": "0",
    },
)
urllib.request.urlopen(request)
