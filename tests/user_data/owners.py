"""owners.py DIR: whether cloud-init gives a file to the owner that every file of DIR names, as JSON."""

import json
import os
import sys
import tempfile

from cloudinit.util import chownbyname, extract_usergroup

directory = sys.argv[1]
answers = []
for name in sorted(os.listdir(directory)):
    with open(os.path.join(directory, name)) as file:
        user, group = extract_usergroup(file.read())
    with tempfile.NamedTemporaryFile() as made:
        try:
            chownbyname(made.name, user, group)
            answers.append(True)
        except OSError:
            answers.append(False)
json.dump(answers, sys.stdout)
