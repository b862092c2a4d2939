# SPDX-License-Identifier: Apache-2.0
"""Git: which commit is desired, what it holds, who signed it, and what the nodes say in their status refs.

repository  opening, plumbing, refs by compare-and-swap     remote     fetch and push of `origin`
snapshot    a commit's files, within limits                 commit     one commit a call, validated as a whole
manifests   files → resources or problems                   worktree   a checked-out tree kept in step
history     generation and creation time                    edit       apply and delete as changes to files
signature   good, bad, untrusted, unsigned                  yamledit   one document of a text
status      refs/schedctl/status/<writer>                   watch      sleeping until a ref moves
memory      the last good commit                            store      GitStore, which puts these together
sample      `init`                                          templates  shipped and overridden
lease       refs/schedctl/lease/<key>: one planner a key
"""

from controller.source.edit import Applied
from controller.source.sample import Initialized, init
from controller.source.store import GitStore
from controller.source.templates import all_templates, builtin_templates

__all__ = ["Applied", "GitStore", "Initialized", "all_templates", "builtin_templates", "init"]
