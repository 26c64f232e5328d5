#!/bin/sh
# Soniq handler: JSON arguments on standard input, the exit code is the verdict.
# Real scripts read JSON with jq; this one needs nothing but a shell.
set -eu

args=$(cat)
folder=$(printf '%s' "$args" | sed -n 's/.*"folder": *"\([^"]*\)".*/\1/p')

if [ -z "$folder" ]; then
  echo "folder is missing" >&2
  exit 65 # invalid arguments: never tried again
fi
if [ ! -d "$folder" ]; then
  echo "$folder: no such folder, and there won't be" >&2
  exit 78 # failed for good: never tried again
fi
if [ "${SONIQ_ATTEMPT:-1}" = 1 ] && [ -e "$folder/busy" ]; then
  echo "$folder is busy" >&2
  exit 1 # any other code: tried again
fi

printf '{"files": %d}\n' "$(find "$folder" -type f | wc -l)"
