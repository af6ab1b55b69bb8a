"""One thin spark-submit file a stage; see each file's first lines."""
