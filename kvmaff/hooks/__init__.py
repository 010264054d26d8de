"""How others take part: what they may contribute, and how their answers are found, judged and combined."""
