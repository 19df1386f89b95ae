"""Doubles of NVIDIA's programs, for machines without a GPU: what they make proves no GPU.

Rules:

- `build` refuses what the release of `trtllm-build` refuses, in its words; its command line
  (`parser`) is declared from the release's own source, not from the table that specs go by;
- a plan (`plan_file`) has a true header, and instead of kernels the weights it was built from;
- `runtime` gives these weights back as a checkpoint, which the CPU executor runs: so a wrong
  checkpoint is as wrong in its engine as it would be on a GPU;
- `fleet` has eight GPUs of each product in the table; `smi` answers as `nvidia-smi` does;
- everything made here says `simulated`, and whoever publishes it has to carry that on.
"""
