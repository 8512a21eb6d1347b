"""The shop's tasks. `time.sleep` stands for their work, but their locks are real.

The comment above each task explains its scope and its policy.
"""
