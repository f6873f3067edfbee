"""Answers of the host's libselinux, as the reference for kiln's matcher.

Reads records "OCTAL-MODE PATH\\0" from standard input and writes "CONTEXT\\0" for each, empty where
libselinux has none; the argument is the policy's file_contexts. It knows nothing of kiln.
"""

import ctypes
import errno
import sys

CTX_FILE = 0
OPT_PATH = 3


class Option(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("value", ctypes.c_char_p)]


def main():
    lib = ctypes.CDLL("libselinux.so.1", use_errno=True)
    lib.selabel_open.restype = ctypes.c_void_p
    lib.selabel_open.argtypes = [ctypes.c_uint, ctypes.POINTER(Option), ctypes.c_uint]
    lookup = lib.selabel_lookup_raw
    lookup.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_char_p, ctypes.c_int]
    lib.freecon.argtypes = [ctypes.c_void_p]
    lib.freecon.restype = None
    handle = lib.selabel_open(CTX_FILE, Option(OPT_PATH, sys.argv[1].encode()), 1)
    if not handle:
        sys.exit(f"selabel_open: {errno.errorcode.get(ctypes.get_errno())}")
    answers = []
    context = ctypes.c_void_p()
    for record in sys.stdin.buffer.read().split(b"\0")[:-1]:
        mode, path = record.split(b" ", 1)
        if lookup(handle, ctypes.byref(context), path, int(mode, 8)) == 0:
            answers.append(ctypes.string_at(context.value))
            lib.freecon(context)
        elif ctypes.get_errno() == errno.ENOENT:
            answers.append(b"")
        else:
            sys.exit(f"selabel_lookup_raw {path!r}: {errno.errorcode.get(ctypes.get_errno())}")
    sys.stdout.buffer.write(b"".join(answer + b"\0" for answer in answers))


main()
