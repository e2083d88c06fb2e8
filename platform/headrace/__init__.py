"""headrace: streams video and image shards through decode actors into compiled training workers.

Read `headrace.batch` first: it is the contract of what flows.
"""

__version__ = "0.1.0"
