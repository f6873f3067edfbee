"""merge.py DIR: what cloud-init's own handler makes of the cloud-config parts of every file of DIR, in
the order of their names, as JSON: one merged configuration each."""

import json
import logging
import os
import sys
import tempfile

import yaml
from cloudinit import handlers, helpers
from cloudinit.handlers.cloud_config import CloudConfigPartHandler
from cloudinit.user_data import UserDataProcessor
from cloudinit.util import fully_decoded_payload

logging.disable(logging.CRITICAL)
answers = []
directory = sys.argv[1]
for name in sorted(os.listdir(directory)):
    scratch = tempfile.mkdtemp()
    paths = helpers.Paths({"cloud_dir": scratch, "run_dir": scratch}, None)
    handler = CloudConfigPartHandler(paths)
    handler.cloud_fn = os.path.join(scratch, "merged")
    with open(os.path.join(directory, name), "rb") as file:
        message = UserDataProcessor(paths).process(file.read())
    handler.handle_part(None, handlers.CONTENT_START, None, None, None, None)
    for part in message.walk():
        if part.get_content_type() == "text/cloud-config":
            text = fully_decoded_payload(part)
            handler.handle_part(
                None, "text/cloud-config", part.get_filename(), text, "always", dict(part)
            )
    handler.handle_part(None, handlers.CONTENT_END, None, None, None, None)
    with open(handler.cloud_fn) as file:
        answers.append(yaml.safe_load(file))
json.dump(answers, sys.stdout)
