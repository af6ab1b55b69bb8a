"""Grid intensity 1 to 96 hours ahead, planned from an origin with nothing stamped at or after it.

Arrays on a gapless hourly grid: row t is the instant at which hour t begins, when hours 0..t-1 are known; column h-1
is the hour t+h-1, which begins h-1 hours later and is known h hours later. Unknown is NaN.
"""
