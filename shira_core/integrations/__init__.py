"""SHiRA in other people's libraries. Nothing here imports them: their objects are passed in."""
