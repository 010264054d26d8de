"""The strategies that come with kvmaff: each a plug-in like a stranger's, an objective handed to the one search."""
