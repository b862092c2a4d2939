# SPDX-License-Identifier: Apache-2.0
"""schedctl: GitOps for the Linux CPU scheduler.

The package is laid out by step (see docs/architecture.md); `import controller` loads nothing.
"""

__version__ = "0.1.0"
