"""lmms-eval scores our checkpoints: a worker process around its Python API, and our model for it.

The evaluator `lmms_eval` starts `worker` and reads what it leaves; nothing else imports this
package. lmms-eval changes global state when it is imported, so it never is in a process of ours
that does anything else. docs/benchmarks.md says what of its defaults is not left to chance.
"""

VERSION = "0.7.3"  # of lmms-eval, whose tasks and defaults were looked at
