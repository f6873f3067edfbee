"""read_yaml.py DIR: what PyYAML reads from every file of DIR, in the order of their names, as JSON."""

import json
import os
import sys

import yaml

directory = sys.argv[1]
answers = []
for name in sorted(os.listdir(directory)):
    with open(os.path.join(directory, name), "rb") as file:
        answers.append(yaml.safe_load(file))
json.dump(answers, sys.stdout)
