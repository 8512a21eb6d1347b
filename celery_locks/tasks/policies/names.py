"""The names of the policies."""

from __future__ import annotations

from typing import Literal

#: What may happen to a call that finds its key held.
CallPolicyName = Literal["existing", "raise", "skip", "replace"]
#: What may happen to a run that finds its key held.
RunPolicyName = Literal["retry", "wait", "skip", "reject", "raise", "park", "replace"]
