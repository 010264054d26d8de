"""What a test or a demo of kvmaff needs: machines, guests and inputs of our own. Nothing loads by itself."""
