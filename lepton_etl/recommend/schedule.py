"""Where and when deferrable jobs should run in the hours ahead: inputs, checks, two planners, and what they promise.

Hours are rows 0..H-1 of the forecast, H its length; row 0 begins at the origin. A job fills whole hours: one of d hours
takes ceil(d) of them, its energy spread evenly over them. A group's units are one pool: how they lie on nodes is the
scheduler's. See docs/planning.md.
"""
