#!/usr/bin/env python3
"""Soniq handler: JSON arguments on standard input, the exit code is the verdict."""
import json
import os
import sys

INVALID_ARGUMENTS, PERMANENT = 65, 78  # never tried again; any other code is

try:
    args = json.load(sys.stdin)
    image, width = str(args["image"]), int(args.get("width", 200))
except (ValueError, TypeError, KeyError) as error:
    print(f"bad arguments: {error!r}", file=sys.stderr)
    sys.exit(INVALID_ARGUMENTS)

if image.endswith(".exe"):
    print(f"{image} will never be an image", file=sys.stderr)
    sys.exit(PERMANENT)

if image == "flaky.png" and os.environ["SONIQ_ATTEMPT"] == "1":
    raise ConnectionError("image store is restarting")  # exit code 1: try again

# Standard output, if it is JSON, is the job's result.
json.dump({"thumbnail": f"{image}-{width}", "attempt": int(os.environ["SONIQ_ATTEMPT"])}, sys.stdout)
