"""The shop's tasks, by what they are about. Their work is played by `time.sleep`; how they are locked is real.

Each says in a sentence why it has the scope and the policy that it has.
"""
