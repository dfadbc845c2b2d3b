"""What a test or a demonstration does at the stand-in, in the place of people and of GitHub."""
