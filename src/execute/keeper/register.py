# Runs subscription-manager with one more option, whose value is a secret: read here, from a file,
# it is on no command line and in no environment.
import runpy
import sys

option, name = sys.argv[1:3]
with open("/run/kiln/secrets/" + name) as secret:
    value = secret.read()
program = "/usr/sbin/subscription-manager"
sys.argv = [program] + sys.argv[3:] + [option + "=" + value]
if sys.path and sys.path[0] == "/run/kiln":
    sys.path[0] = "/usr/sbin"
runpy.run_path(program, run_name="__main__")
