"""The operations of GitHub's REST API that the stand-in answers."""
