"""take_apart.py DIR: what cloud-init makes of every file of DIR, in the order of their names, as JSON.

Each file gives `parts`, as cloud-init's own processor splits it, and `mail`, as Python's email does:
lists of [type, file name, content in Base64]. `scripts` are the files that cloud-init would run."""

import base64
import json
import logging
import os
import sys
import tempfile
from email import message_from_bytes, policy

from cloudinit import handlers, helpers, util
from cloudinit.handlers.boot_hook import BootHookPartHandler
from cloudinit.handlers.shell_script import ShellScriptPartHandler
from cloudinit.user_data import UserDataProcessor

logging.disable(logging.CRITICAL)
scratch = tempfile.mkdtemp()
for name in ("cloud", "run"):
    os.mkdir(os.path.join(scratch, name))
paths = helpers.Paths(
    {"cloud_dir": os.path.join(scratch, "cloud"), "run_dir": os.path.join(scratch, "run")}, None
)


def encoded(content):
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogateescape")
    return base64.b64encode(content).decode()


def scripts(message):
    """The bytes that would be run, as the handlers of cloud-init write them."""
    found = []
    for part in message.walk():
        kind = part.get_content_type()
        if part.is_multipart() or not kind.startswith(("text/x-shellscript", "text/cloud-boothook")):
            continue
        with tempfile.TemporaryDirectory(dir=scratch) as at:
            payload = util.fully_decoded_payload(part)
            if kind == "text/cloud-boothook":
                hook = BootHookPartHandler(paths, None)
                hook.boothook_dir = at
                hook._write_part(payload, part.get_filename())
            else:
                script = ShellScriptPartHandler(paths)
                script.script_dir = at
                script.handle_part(None, kind, part.get_filename(), payload, "always")
            for name in os.listdir(at):
                with open(os.path.join(at, name), "rb") as file:
                    found.append([name, encoded(file.read())])
    return found


answers = []
directory = sys.argv[1]
for name in sorted(os.listdir(directory)):
    with open(os.path.join(directory, name), "rb") as file:
        raw = file.read()
    message = UserDataProcessor(paths).process(raw)
    parts = [
        [part.get_content_type(), part.get_filename(), encoded(util.fully_decoded_payload(part))]
        for part in message.walk()
        if not part.is_multipart()
    ]
    mail = message_from_bytes(util.decomp_gzip(raw, decode=False), policy=policy.default)
    split = [
        [part.get_content_type(), part.get_filename(), encoded(part.get_payload(decode=True))]
        for part in (mail.walk() if mail.is_multipart() else [])
        if not part.is_multipart()
    ]
    walked = mail.walk() if mail.is_multipart() else []
    defects = [str(defect) for part in walked for defect in part.defects]
    answers.append(
        {"parts": parts, "mail": split, "defects": defects, "scripts": scripts(message)}
    )
json.dump(answers, sys.stdout)
